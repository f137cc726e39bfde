/// Guesses what a mistyped word was meant to be.
public enum Spelling {
    /// The candidate with the fewest edits from `word`, where that is at most a third of its length (at least two).
    /// Case counts for nothing, and the beginning of a word stands for the word.
    public static func nearest(to word: String, among candidates: [String]) -> String? {
        let limit = max(2, word.count / 3)
        return
            candidates
            .map { ($0, distance(word.lowercased(), $0.lowercased())) }
            .filter { $0.1 <= limit }
            .min { ($0.1, $0.0) < ($1.1, $1.0) }?.0
    }

    private static func distance(_ a: String, _ b: String) -> Int {
        min(a.count, b.count) >= 3 && (a.hasPrefix(b) || b.hasPrefix(a)) ? 1 : distance(Array(a), Array(b))
    }

    /// Levenshtein's distance: insertions, deletions and replacements.
    static func distance(_ a: [Character], _ b: [Character]) -> Int {
        var previous = Array(0...b.count)
        for (i, x) in a.enumerated() {
            var current = [i + 1]
            for (j, y) in b.enumerated() {
                current.append(min(previous[j] + (x == y ? 0 : 1), previous[j + 1] + 1, current[j] + 1))
            }
            previous = current
        }
        return previous[b.count]
    }
}
