use std::error::Error as StdError;
use std::fmt;

/// What the harness was doing when it failed, and why.
pub struct Error {
    doing: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure without another error behind it.
    pub fn new(what: impl Into<String>) -> Self {
        Self { doing: what.into(), source: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{}: {source}", self.doing),
            None => f.write_str(&self.doing),
        }
    }
}

// Tests end in `unwrap` or `?`, and both print the Debug form.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Says what was being done when another library's error came up.
pub trait Doing<T> {
    /// Wraps the error, if there is one, with what was being done.
    fn doing(self, what: impl Into<String>) -> Result<T, Error>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T, Error> {
        self.map_err(|source| Error { doing: what.into(), source: Some(source.into()) })
    }
}
