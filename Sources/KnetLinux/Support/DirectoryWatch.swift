import CMnl
import Dispatch
import Glibc

/// Follows a directory by inotify.
public enum DirectoryWatch {
    private static let mask = UInt32(
        IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF | IN_ATTRIB
    )
    /// Milliseconds of silence that end a burst of changes: writers seldom stop after one file.
    private static let settle: Int32 = 10
    /// Milliseconds after which a burst is told even if it goes on.
    private static let patience = Duration.milliseconds(100)

    /// An element now, and one after each burst of changes in the directory. A directory that does not exist is looked
    /// for once a second. The stream ends with its consumer's task.
    public static func changes(of path: String) -> AsyncStream<Void> {
        AsyncStream(bufferingPolicy: .bufferingNewest(1)) { continuation in
            // An event descriptor ends the thread's wait when the consumer goes away.
            let stop = eventfd(0, Int32(EFD_CLOEXEC))
            continuation.onTermination = { _ in eventfd_write(stop, 1) }
            do {
                try DedicatedThread.start(name: "knetd-inotify") {
                    follow(path, stop: stop, continuation)
                    close(stop)
                    continuation.finish()
                }
            } catch {
                // Finishing writes to the event descriptor.
                continuation.finish()
                close(stop)
            }
        }
    }

    private static func follow(_ path: String, stop: Int32, _ continuation: AsyncStream<Void>.Continuation) {
        while true {
            let watch = Descriptor(owning: inotify_init1(Int32(IN_CLOEXEC | IN_NONBLOCK)))
            let isThere = inotify_add_watch(watch.number, path, mask) >= 0
            continuation.yield()
            if !isThere {
                if wait(for: [stop], milliseconds: 1000) != 0 { return }
                continue
            }
            var isGone = false
            while !isGone {
                // What a symbolic link leads to can change unheard.
                guard wait(for: [watch.number, stop], milliseconds: 30_000) & 2 == 0 else { return }
                let start = ContinuousClock.now
                repeat {
                    isGone = drain(watch.number) || isGone
                } while wait(for: [watch.number], milliseconds: settle) != 0 && ContinuousClock.now - start < patience
                continuation.yield()
            }
        }
    }

    /// Reads all events.
    /// - Returns: whether the directory itself went away.
    private static func drain(_ descriptor: Int32) -> Bool {
        var isGone = false
        withUnsafeTemporaryAllocation(byteCount: 1 << 14, alignment: 8) { buffer in
            while true {
                let count = read(descriptor, buffer.baseAddress, buffer.count)
                guard count > 0 else { return }
                var offset = 0
                while offset + MemoryLayout<inotify_event>.size <= count {
                    let event = buffer.loadUnaligned(fromByteOffset: offset, as: inotify_event.self)
                    if event.mask & UInt32(IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED) != 0 { isGone = true }
                    offset += MemoryLayout<inotify_event>.size + Int(event.len)
                }
            }
        }
        return isGone
    }

    /// - Returns: a bit for each descriptor that is ready.
    private static func wait(for descriptors: [Int32], milliseconds: Int32) -> Int {
        var polled = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        guard poll(&polled, nfds_t(polled.count), milliseconds) > 0 else { return 0 }
        return polled.enumerated().reduce(0) { $0 | ($1.element.revents != 0 ? 1 << $1.offset : 0) }
    }
}
