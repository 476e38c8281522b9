use std::io;
use std::path::Path;

/// Puts a file there, or another in its place, as a whole: whoever reads meanwhile finds the one or
/// the other. `fresh` is where it is made, beside it.
pub(crate) fn replace(file: &Path, fresh: &Path, content: &str) -> io::Result<()> {
    std::fs::write(fresh, content)?;
    std::fs::rename(fresh, file)
}
