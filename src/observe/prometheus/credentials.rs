//! The headers of a request, credentials included, from files that may be rotated at any time.

use super::Error;
use crate::config::MetricsSource;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use std::path::Path;

/// The headers for one request to `source`.
pub(super) async fn headers(source: &MetricsSource) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(CONTENT_TYPE, form);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(file) = &source.bearer_token_file {
        let token = read(file).await?;
        headers.insert(AUTHORIZATION, value(file, &format!("Bearer {token}"))?);
    }
    if let Some(auth) = &source.basic_auth {
        let pair = format!("{}:{}", auth.username, read(&auth.password_file).await?);
        let basic = format!("Basic {}", STANDARD.encode(pair));
        headers.insert(AUTHORIZATION, value(&auth.password_file, &basic)?);
    }
    for header in &source.headers {
        let text = read(&header.value_file).await?;
        headers.insert(header.name.clone(), value(&header.value_file, &text)?);
    }
    Ok(headers)
}

/// The text of a file, without the newline editors add.
async fn read(file: &Path) -> Result<String, Error> {
    let text = tokio::fs::read_to_string(file)
        .await
        .map_err(|error| Error::Credentials(format!("{}: {error}", file.display())))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(Error::Credentials(format!("{} is empty", file.display())));
    }
    Ok(text.into())
}

/// Marked so that no log prints it.
fn value(file: &Path, text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Error::Credentials(format!("{} holds what no header can", file.display())))?;
    value.set_sensitive(true);
    Ok(value)
}
