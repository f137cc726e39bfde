import Glibc
import KnetLinux

extension Load {
    /// A connection over which one byte goes to the server and one comes back, again and again. Used by one thread at a time, whose
    /// processor the caller has chosen.
    struct Conversation {
        let path: String
        private let socket: Int32

        fileprivate init(_ path: String, socket: Int32) {
            self.path = path
            self.socket = socket
        }

        /// - Returns: microseconds of each request.
        func requests(seconds: Double) throws(Fault) -> [Double] {
            try attempt {
                try warm()
                return try repeated(seconds) { try Self.exchange(socket) }
            }
        }

        /// Requests in bursts, each between two measurements of the yardstick.
        struct Turn {
            /// Microseconds of each request.
            fileprivate(set) var times: [Float] = []
            /// Where each burst's times end, and what the yardstick took before or after it, the longer of the two, in microseconds.
            fileprivate(set) var bursts: [(end: Int, yardstick: Double)] = []

            /// The times of those bursts alone.
            func times(where isWanted: (_ yardstick: Double) -> Bool) -> [Double] {
                var start = 0
                return bursts.flatMap { burst in
                    defer { start = burst.end }
                    return isWanted(burst.yardstick) ? times[start..<burst.end].map(Double.init) : []
                }
            }
        }

        func turn(seconds: Double, beside yardstick: Yardstick) throws -> Turn {
            try attempt { try warm() }
            let deadline = now() + Int64(seconds * 1e9)
            var turn = Turn()
            turn.times.reserveCapacity(Int(seconds * 1e6 / 4))
            var before = try yardstick.measure()
            repeat {
                let times = try attempt { try repeated(Self.burst) { try Self.exchange(socket) } }
                let after = try yardstick.measure()
                turn.times += times.map(Float.init)
                turn.bursts.append((turn.times.count, max(before, after)))
                before = after
            } while now() < deadline
            return turn
        }

        /// Seconds.
        private static let burst = 0.0004

        /// Caches, routes and TCP's own estimates are warm after some.
        private func warm() throws { for _ in 0..<100 { try Self.exchange(socket) } }

        private func attempt<Result>(_ body: () throws -> Result) throws(Fault) -> Result {
            do { return try body() } catch { throw Fault(path: path, error: error) }
        }

        static func exchange(_ socket: Int32) throws {
            var byte: UInt8 = 1
            guard send(socket, &byte, 1, Int32(MSG_NOSIGNAL)) == 1 else { throw SystemError("send") }
            let count = recv(socket, &byte, 1, 0)
            guard count == 1 else {
                throw count == 0
                    ? SystemError("receive", errno: ECONNRESET, detail: "it was closed") : SystemError("receive")
            }
        }
    }

    /// What one of several paths failed with.
    struct Fault: Error, CustomStringConvertible {
        let path: String
        let error: any Error

        var description: String { "\(error)" }
    }

    /// Opens a connection over each path; they stay open until `body` is done.
    /// - Parameter body: given them in the same order, on a thread that is where the last one's client is to be.
    /// - Throws: `Fault` where one cannot be opened.
    static func converse<Result>(
        _ loads: ArraySlice<Load>, _ open: [Conversation] = [], _ body: ([Conversation]) throws -> Result
    ) throws -> Result {
        guard let load = loads.first else { return try body(open) }
        var isOpen = false
        do {
            return try load.run { listener in
                guard let connection = try accept(listener) else { return }
                // Another path may lead to the same server.
                shutdown(listener, Int32(SHUT_RDWR))
                // The client's end notices, and knows which path it is.
                try? echo(connection.number)
            } client: { load in
                let connection = try load.connect()
                try Conversation.exchange(connection.number)
                isOpen = true
                return try converse(
                    loads.dropFirst(), open + [Conversation(load.path.name, socket: connection.number)], body)
            }
        } catch  where !isOpen {
            throw Fault(path: load.path.name, error: error)
        }
    }
}
