package import FoundationEssentials
import Glibc

/// Why a file could not be read, in the kernel's words.
package struct UnreadableFile: Error, CustomStringConvertible {
    package let path: String
    let errno: Int32
    package var description: String { String(cString: strerror(errno)) }
}

/// Reads a file to its end, pipes and standard input too, and says why where it cannot.
package func contents(ofFile path: String) throws(UnreadableFile) -> Data {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw UnreadableFile(path: path, errno: errno) }
    defer { close(descriptor) }
    var data = Data()
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
        let count = read(descriptor, &buffer, buffer.count)
        if count == 0 { return data }
        if count > 0 {
            data.append(contentsOf: buffer[..<count])
        } else if errno != EINTR {
            throw UnreadableFile(path: path, errno: errno)
        }
    }
}
