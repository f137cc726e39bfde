import CMnl

/// Memory that was freed and that the C library keeps for later.
public enum FreeMemory {
    /// Gives it back to the kernel, after work that took much more than what is left of it. Takes milliseconds.
    public static func giveBack() { _ = malloc_trim(0) }
}
