import Glibc

/// Places where a test ends the process as a kill would: before and after each step that outlasts it, in the kernel or on
/// disk. In a release build there are none.
public enum CrashPoint {
    #if DEBUG
        private static let file = getenv("KNETD_CRASH_FILE").map { String(cString: $0) }

        /// Counts the file's number down by one, and kills the process where it is 0 already. Without a file nothing
        /// happens.
        public static func pass() {
            guard let file, let stream = fopen(file, "r+") else { return }
            var left: Int32 = 0
            let isThere = withUnsafeMutablePointer(to: &left) { pointer in
                withVaList([pointer]) { vfscanf(stream, "%d", $0) } == 1
            }
            if isThere, left == 0 { kill(getpid(), SIGKILL) }
            if isThere {
                rewind(stream)
                fputs("\(left - 1)\n", stream)
                ftruncate(fileno(stream), ftell(stream))
            }
            fclose(stream)
        }
    #else
        @inline(__always) public static func pass() {}
    #endif
}
