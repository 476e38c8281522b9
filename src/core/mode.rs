//! The mode of a server, as PeerAuthentication names it.

use std::fmt;

/// What a server accepts. Ordered from weakest to strongest, so that "never weaker" is `>=`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "UPPERCASE"))]
pub enum Mode {
    /// Plaintext only: the proxy does not end TLS.
    Disable,
    /// Mutual TLS and plaintext.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// What a policy says about a mode, before inheritance.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Declared {
    /// No `mtls`, `mtls: {}`, or mode UNSET: the parent decides (`istio-semantics.md` A3).
    Unset,
    /// This mode.
    Mode(Mode),
    /// A word we do not know; whatever depends on it is unknown.
    Unknown(String),
}

impl Mode {
    /// The API's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Declared {
    /// Reads the API's spelling; `None` is an absent field.
    pub fn parse(mode: Option<&str>) -> Self {
        match mode {
            None | Some("" | "UNSET") => Self::Unset,
            Some("DISABLE") => Self::Mode(Mode::Disable),
            Some("PERMISSIVE") => Self::Mode(Mode::Permissive),
            Some("STRICT") => Self::Mode(Mode::Strict),
            Some(other) => Self::Unknown(other.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_word_is_not_unset() {
        assert_eq!(Declared::parse(Some("STRICTT")), Declared::Unknown("STRICTT".into()));
        assert_eq!(Declared::parse(Some("UNSET")), Declared::Unset);
        assert!(Mode::Strict > Mode::Permissive && Mode::Permissive > Mode::Disable);
    }
}
