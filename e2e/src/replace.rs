use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Puts a file there, or another in its place, as a whole: whoever reads meanwhile finds the one or
/// the other, and of many who write at one time none is in another's way.
pub(crate) fn replace(file: &Path, content: &str) -> io::Result<()> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let fresh = file.with_extension(format!("{}-{number}", std::process::id()));
    std::fs::write(&fresh, content)?;
    std::fs::rename(&fresh, file)
}

#[cfg(test)]
mod tests {
    use super::replace;

    #[test]
    fn many_may_write_the_same_at_one_time() {
        let folder = std::env::temp_dir().join(format!("replace-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("manifest.json");
        let write = || (0..100).try_for_each(|_| replace(&file, "the same"));
        let all: Vec<_> = std::thread::scope(|scope| {
            let writers = [(); 4].map(|()| scope.spawn(write));
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        let left = std::fs::read_dir(&folder).unwrap().count();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        assert_eq!(left, 1, "nothing is left lying about");
    }
}
