//! The race as it is run in life.

/// A guest of the kernel matrix: its processor is emulated.
pub fn is_emulated() -> bool {
    std::env::var_os("BEELINE_MATRIX").is_some()
}
