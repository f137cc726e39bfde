/// A value that copies of what holds it have in common; it is equal by value.
final class Shared<Value: Hashable & Sendable & Decodable>: Hashable, Sendable, Decodable {
    let value: Value

    init(_ value: Value) { self.value = value }

    init(from decoder: any Decoder) throws { value = try Value(from: decoder) }

    static func == (one: Shared, other: Shared) -> Bool { one === other || one.value == other.value }

    func hash(into hasher: inout Hasher) { hasher.combine(value) }
}
