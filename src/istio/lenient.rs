//! A part of a foreign object that may be of any shape.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// What we could read, or why not together with what stood there. Reading never fails, so one
/// malformed object never stops a watch.
#[derive(Clone, Debug, PartialEq)]
pub enum Lenient<T> {
    /// It had the expected shape.
    Read(T),
    /// It had not. What depends on it is unknown.
    Malformed {
        /// What did not fit, in the parser's words.
        error: String,
        /// The value as it stands.
        value: Value,
    },
}

impl<T> Lenient<T> {
    /// The value, if it had the expected shape.
    pub fn read(&self) -> Option<&T> {
        match self {
            Self::Read(value) => Some(value),
            Self::Malformed { .. } => None,
        }
    }

    /// The value, or why it could not be read.
    pub fn as_result(&self) -> Result<&T, &str> {
        match self {
            Self::Read(value) => Ok(value),
            Self::Malformed { error, .. } => Err(error),
        }
    }
}

impl<T: Default> Default for Lenient<T> {
    fn default() -> Self {
        Self::Read(T::default())
    }
}

impl<'de, T: Default + DeserializeOwned> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value.is_null() {
            return Ok(Self::default());
        }
        Ok(match T::deserialize(&value) {
            Ok(read) => Self::Read(read),
            Err(error) => Self::Malformed { error: error.to_string(), value },
        })
    }
}

impl<T: Serialize> Serialize for Lenient<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Read(value) => value.serialize(serializer),
            Self::Malformed { value, .. } => value.serialize(serializer),
        }
    }
}
