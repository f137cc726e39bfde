import NIOCore

/// Puts lines together from chunks that end anywhere.
struct LineReader {
    private var rest = ByteBuffer()

    /// The lines that `chunk` completes, without their ends.
    mutating func read(_ chunk: ByteBuffer) -> [String] {
        rest.writeImmutableBuffer(chunk)
        var lines: [String] = []
        while let end = rest.readableBytesView.firstIndex(of: UInt8(ascii: "\n")),
            let line = rest.readString(length: end - rest.readerIndex)
        {
            rest.moveReaderIndex(forwardBy: 1)
            lines.append(line)
        }
        return lines
    }
}
