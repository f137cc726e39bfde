import CYaml

/// A step through a YAML text.
enum YAMLEvent {
    case documentStart
    /// The end of a document, a list or a mapping.
    case end
    case streamEnd
    /// - Parameter isPlain: what stands there bare may be a number, a boolean or null.
    case scalar(String, isPlain: Bool, anchor: String?)
    case sequenceStart(anchor: String?)
    case mappingStart(anchor: String?)
    case alias(String)
}

/// libyaml's parser of one text (UTF-8), as a sequence of events.
struct YAMLParser: ~Copyable {
    /// It points to itself, so it must stay where it is.
    private let parser: UnsafeMutablePointer<yaml_parser_t>
    private let text: UnsafeBufferPointer<UInt8>

    /// - Parameter text: outlives the parser.
    init(_ text: UnsafeBufferPointer<UInt8>) {
        self.text = text
        parser = .allocate(capacity: 1)
        parser.initialize(to: yaml_parser_t())
        yaml_parser_initialize(parser)
        yaml_parser_set_encoding(parser, YAML_UTF8_ENCODING)
        yaml_parser_set_input_string(parser, text.baseAddress, text.count)
    }

    deinit {
        yaml_parser_delete(parser)
        parser.deallocate()
    }

    /// The next event and where it begins; none comes after `streamEnd`.
    mutating func next() throws(YAMLError) -> (event: YAMLEvent, place: YAMLPlace) {
        while true {
            var event = yaml_event_t()
            guard yaml_parser_parse(parser, &event) == 1 else { throw fault() }
            defer { yaml_event_delete(&event) }
            if event.type == YAML_STREAM_START_EVENT { continue }
            return (Self.event(event), YAMLPlace(line: event.start_mark.line, column: event.start_mark.column))
        }
    }

    private static func event(_ event: yaml_event_t) -> YAMLEvent {
        switch event.type {
        case YAML_DOCUMENT_START_EVENT: .documentStart
        case YAML_SCALAR_EVENT: scalar(event)
        case YAML_SEQUENCE_START_EVENT: .sequenceStart(anchor: string(event.data.sequence_start.anchor))
        case YAML_MAPPING_START_EVENT: .mappingStart(anchor: string(event.data.mapping_start.anchor))
        case YAML_ALIAS_EVENT: .alias(string(event.data.alias.anchor) ?? "")
        case YAML_DOCUMENT_END_EVENT, YAML_SEQUENCE_END_EVENT, YAML_MAPPING_END_EVENT: .end
        default: .streamEnd
        }
    }

    private static func scalar(_ event: yaml_event_t) -> YAMLEvent {
        let scalar = event.data.scalar
        let text = String(decoding: UnsafeBufferPointer(start: scalar.value, count: scalar.length), as: UTF8.self)
        // `!!str` makes a text of anything.
        let isPlain = scalar.style == YAML_PLAIN_SCALAR_STYLE && string(scalar.tag) != YAML_STR_TAG
        return .scalar(text, isPlain: isPlain, anchor: string(scalar.anchor))
    }

    private static func string(_ pointer: UnsafeMutablePointer<yaml_char_t>?) -> String? {
        pointer.map { String(cString: $0) }
    }

    private func fault() -> YAMLError {
        let problem = parser.pointee.problem.map { String(cString: $0) } ?? "libyaml is out of memory"
        if parser.pointee.error == YAML_READER_ERROR {
            // Here libyaml tells how many bytes came before.
            let before = text.prefix(parser.pointee.problem_offset)
            let line = before.count { $0 == UInt8(ascii: "\n") }
            let column = before.reversed().prefix { $0 != UInt8(ascii: "\n") }.count
            return YAMLPlace(line: line, column: column).error(problem)
        }
        let context = parser.pointee.context.map { " \(String(cString: $0))" } ?? ""
        let mark = parser.pointee.problem_mark
        return YAMLPlace(line: mark.line, column: mark.column).error(problem + context)
    }
}
