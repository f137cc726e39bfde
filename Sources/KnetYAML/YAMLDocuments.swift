public import FoundationEssentials
public import KnetCore

/// The documents of one YAML text, as the JSON that they stand for.
public struct YAMLDocuments: Sendable {
    /// Those before the first that cannot be read; empty ones are null.
    public private(set) var values: [JSONValue] = []
    /// What is wrong with the one after them; `nil` where nothing is.
    public private(set) var error: YAMLError?

    /// Reads a whole text (UTF-8). Anchors, aliases and merge keys (`<<`) are resolved.
    public init(parsing text: Data) {
        // Without bytes there is no address that libyaml would take.
        if text.isEmpty { return }
        text.withUnsafeBytes { bytes in
            var composer = YAMLComposer(bytes.bindMemory(to: UInt8.self))
            do throws(YAMLError) {
                while let value = try composer.document() { values.append(value) }
            } catch {
                self.error = error
            }
        }
    }
}
