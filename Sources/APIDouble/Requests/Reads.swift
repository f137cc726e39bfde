import NIOCore
import Synchronization

extension Dispatcher {
    func read(_ call: Call, _ path: ResourcePath) throws(Status) {
        guard call.verb != "get" else { return try get(call, path) }
        let format = try call.format(path)
        let selector = try Selector(path: path, query: call.target.query)
        let list = try ListOptions(query: call.target.query, watchList: options.watchList)
        if list.isWatch {
            try watch(call, path, selector, list, format)
        } else {
            self.list(call, path, selector, list, format, until: .now() + options.freshnessTimeout.timeAmount)
        }
    }

    private func get(_ call: Call, _ path: ResourcePath) throws(Status) {
        let format = try call.format(path)
        let key = ObjectKey(namespace: path.namespace, name: path.name)
        guard path.subresource.isEmpty || path.subresource == "status" && path.resource.hasStatus else {
            throw .unknownResource
        }
        guard let object = store.object(path.resource, key) else { throw .notFound(path.resource, path.name) }
        call.answer(200, object, format)
    }

    /// Answers as soon as the store has come as far as the client asks, with 504 if that is not in time.
    private func list(
        _ call: Call, _ path: ResourcePath, _ selector: Selector, _ options: ListOptions, _ format: Format,
        until deadline: NIODeadline
    ) {
        do throws(Status) {
            let lists = Lists(store: store)
            if let page = try lists.page(path, selector, options) {
                return call.answer(200, format, page.encode(format))
            }
            guard .now() < deadline else {
                throw .tooLarge(try lists.neededRevision(options), current: store.revision)
            }
            call.exchange.channel.eventLoop.scheduleTask(in: .milliseconds(10)) {
                self.list(call, path, selector, options, format, until: deadline)
            }
        } catch {
            call.answer(error)
        }
    }

    private func watch(
        _ call: Call, _ path: ResourcePath, _ selector: Selector, _ list: ListOptions, _ format: Format
    ) throws(Status) {
        // A delayed request may have lost its connection: nobody would end its watch.
        guard call.exchange.channel.isActive else { return }
        let revision = try list.revision() ?? 0
        let start: WatchStart =
            if list.sendsInitialEvents == true {
                .present
            } else if revision > 0 {
                .after(revision)
            } else {
                list.sendsInitialEvents == nil ? .present : .now
            }
        let resource = path.resource
        let stream = WatchStream(
            call.exchange, resource, format, selector, store: store, faults: faults,
            owesInitialEnd: list.sendsInitialEvents == true && list.allowsBookmarks,
            whenOver: { [watches] in watches.closed(resource) })
        if options.refusesOldWatches, case .after(let wanted) = start, let refusal = store.refusal(ofWatchAfter: wanted)
        {
            throw refusal
        }
        call.begin(200, contentType: format.watchContentType)
        call.exchange.watch.withLock { $0 = stream }
        watches.opened(resource)
        stream.schedule(
            timeout: list.timeoutSeconds.map { .seconds($0) } ?? options.watchTimeout,
            bookmarkInterval: list.allowsBookmarks ? options.bookmarkInterval : nil)
        let needed = start == .present ? revision : 0
        begin(stream, resource, start, needed: needed, until: .now() + options.freshnessTimeout.timeAmount, call)
    }

    /// Begins as soon as the store has come as far as the client asks; what goes wrong is told in the stream.
    private func begin(
        _ stream: WatchStream, _ resource: Resource, _ start: WatchStart, needed: Int, until deadline: NIODeadline,
        _ call: Call
    ) {
        do throws(Status) {
            guard call.exchange.channel.isActive else { return }
            if needed <= store.revision { return try store.follow(resource, from: start, stream) }
            guard .now() < deadline else { throw .tooLarge(needed, current: store.revision) }
            call.exchange.channel.eventLoop.scheduleTask(in: .milliseconds(10)) {
                self.begin(stream, resource, start, needed: needed, until: deadline, call)
            }
        } catch {
            stream.refuse(error)
        }
    }
}
