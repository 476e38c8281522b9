//! Servers that the administrator registers: the client for one, and headers whose values stand in
//! files that may be rotated at any time.

use crate::config::Header;
use http::{HeaderMap, HeaderValue, Uri};
use kube::Client;
use kube::client::ClientBuilder;
use std::path::Path;

/// The HTTP stack that kube brings, without its retries, which would hide a server that fails.
/// With a CA file, only what that file vouches for is trusted.
pub(crate) fn client(url: &Uri, ca_file: Option<&Path>) -> Result<Client, String> {
    let mut config = kube::Config::new(url.clone());
    config.default_retry = false;
    config.root_cert_file = ca_file.map(Path::to_owned);
    if ca_file.is_some() || url.scheme_str() == Some("http") {
        // Else the system's certificates are loaded, which a minimal image does not have.
        config.root_cert = Some(vec![]);
    }
    Ok(ClientBuilder::try_from(config).map_err(|error| chain(&error))?.build())
}

/// Adds each header with what its file holds now.
pub(crate) async fn add(headers: &[Header], to: &mut HeaderMap) -> Result<(), String> {
    for header in headers {
        let text = read(&header.value_file).await?;
        to.insert(header.name.clone(), secret(&header.value_file, &text)?);
    }
    Ok(())
}

/// The text of a file, without the newline editors add.
pub(crate) async fn read(file: &Path) -> Result<String, String> {
    let text = tokio::fs::read_to_string(file)
        .await
        .map_err(|error| format!("{}: {error}", file.display()))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(format!("{} is empty", file.display()));
    }
    Ok(text.into())
}

/// A header's value, made of what stands in `file`. Marked so that no log prints it.
pub(crate) fn secret(file: &Path, text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| format!("{} holds what no header can", file.display()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
