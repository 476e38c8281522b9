//! A small client for the HTTP API of Prometheus, and of all that speak it.
//!
//! Its one purpose beside asking is never to take a missing answer for an empty one: whatever is
//! not a complete, well-formed answer is an [`Error`], and the caller makes it Unknown. The public
//! crate for this API drops `warnings`, by which Thanos and remote reads say that data is missing.

mod answer;

pub use answer::{Sample, Series, matrix, vector};

use super::clock;
use crate::config::MetricsSource;
use crate::remote;
use crate::traces::SPANS;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::client::Body;
use meshrollout_core::reading::Cause;
use std::time::Duration as StdDuration;
use tokio::sync::OnceCell;

/// An answer larger than this is refused unless told otherwise.
pub const DEFAULT_SIZE_LIMIT: usize = 64 << 20;

/// A client for one registered source.
pub struct Prometheus {
    source: MetricsSource,
    size_limit: usize,
    client: OnceCell<Client>,
}

/// An answer, and the clock of whoever gave it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// One per set of labels; none is a complete answer too.
    pub series: Vec<Series<T>>,
    /// The server's time when it answered, to the second; absent when it did not say.
    pub server_time: Option<Timestamp>,
}

/// Everything that can be wrong with an answer. Each is a reason not to know, never a zero.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// A credential or certificate file cannot be used.
    #[error("credentials: {0}")]
    Credentials(String),
    /// No connection, or it broke.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No complete answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(StdDuration),
    /// An HTTP status that is no answer of the API.
    #[error("HTTP status {0}")]
    Status(u16),
    /// Sent elsewhere. Not followed: the credentials are for the registered address only.
    #[error("redirected to {0}: register that address")]
    Redirected(String),
    /// Larger than the limit.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// Not JSON at all.
    #[error("the answer is not JSON: {0}")]
    NotJson(String),
    /// The API says that it failed.
    #[error("{kind}: {message}")]
    ApiError {
        /// Its `errorType`.
        kind: String,
        /// Its `error`.
        message: String,
    },
    /// The API says that data is missing.
    #[error("incomplete: {}", .0.join("; "))]
    Partial(Vec<String>),
    /// JSON, but not what was asked for.
    #[error("not the expected shape: {0}")]
    WrongShape(String),
    /// A value is no finite number.
    #[error("{value} is not a number, in the series {labels}")]
    NotANumber {
        /// The value as text.
        value: String,
        /// The labels of its series.
        labels: String,
    },
    /// Two series, or two points of one, where there can be one.
    #[error("twice in one answer: {0}")]
    Duplicate(String),
}

impl Error {
    /// The same as one of the core's reasons not to know.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Partial(_) => Cause::PartialAnswer(self.to_string()),
            Self::NotANumber { .. } | Self::Duplicate(_) => Cause::Ambiguous(self.to_string()),
            Self::Credentials(_)
            | Self::Unreachable(_)
            | Self::TimedOut(_)
            | Self::Status(_)
            | Self::Redirected(_)
            | Self::TooLarge(_)
            | Self::NotJson(_)
            | Self::ApiError { .. }
            | Self::WrongShape(_) => Cause::SourceUnavailable(self.to_string()),
        }
    }

    /// One word from a closed set, for metrics labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Credentials(_) => "credentials",
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut(_) => "timed_out",
            Self::Status(_) => "status",
            Self::Redirected(_) => "redirected",
            Self::TooLarge(_) => "too_large",
            Self::NotJson(_) => "not_json",
            Self::ApiError { .. } => "api_error",
            Self::Partial(_) => "partial",
            Self::WrongShape(_) => "wrong_shape",
            Self::NotANumber { .. } => "not_a_number",
            Self::Duplicate(_) => "duplicate",
        }
    }
}

impl Prometheus {
    /// A client for `source`. Nothing is opened before the first question.
    pub fn new(source: MetricsSource) -> Self {
        Self { source, size_limit: DEFAULT_SIZE_LIMIT, client: OnceCell::new() }
    }

    /// The same with another limit on the size of an answer, in bytes.
    pub fn with_size_limit(self, size_limit: usize) -> Self {
        Self { size_limit, ..self }
    }

    /// The source asked.
    pub fn source(&self) -> &MetricsSource {
        &self.source
    }

    /// The value of `query` for each set of labels, at one time; now by the server's clock without.
    #[tracing::instrument(target = SPANS, name = "query", skip_all, err, fields(
        otel.kind = "client", source = self.source.name, query = query,
    ))]
    pub async fn instant(
        &self,
        query: &str,
        at: Option<Timestamp>,
    ) -> Result<Answer<Sample>, Error> {
        let mut form = self.form(query);
        if let Some(at) = at {
            form.append_pair("time", &seconds(at));
        }
        let (text, server_time) = self.ask("/api/v1/query", form.finish()).await?;
        Ok(Answer { series: vector(&text)?, server_time })
    }

    /// The values of `query` from `start` to `end`, both included, one each `step`.
    #[tracing::instrument(target = SPANS, name = "query", skip_all, err, fields(
        otel.kind = "client", source = self.source.name, query = query,
    ))]
    pub async fn range(
        &self,
        query: &str,
        start: Timestamp,
        end: Timestamp,
        step: SignedDuration,
    ) -> Result<Answer<Vec<Sample>>, Error> {
        let mut form = self.form(query);
        form.append_pair("start", &seconds(start))
            .append_pair("end", &seconds(end))
            .append_pair("step", &format!("{:.3}", step.as_secs_f64()));
        let (text, server_time) = self.ask("/api/v1/query_range", form.finish()).await?;
        Ok(Answer { series: matrix(&text)?, server_time })
    }

    fn form(&self, query: &str) -> form_urlencoded::Serializer<'static, String> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("query", query)
            .append_pair("timeout", &format!("{}ms", self.source.timeout.as_millis()))
            // Thanos and VictoriaMetrics would rather answer in part than not at all; we would not.
            // Others ignore what they do not know.
            .append_pair("partial_response", "false")
            .append_pair("deny_partial_response", "1");
        form
    }

    async fn ask(&self, path: &str, form: String) -> Result<(Vec<u8>, Option<Timestamp>), Error> {
        let limit = self.source.timeout.unsigned_abs();
        tokio::time::timeout(limit, self.exchange(path, form))
            .await
            .unwrap_or(Err(Error::TimedOut(limit)))
    }

    async fn exchange(
        &self,
        path: &str,
        form: String,
    ) -> Result<(Vec<u8>, Option<Timestamp>), Error> {
        let mut request = Request::new(Body::from(form.into_bytes()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().map_err(|_| Error::WrongShape(path.into()))?;
        *request.headers_mut() = headers(&self.source).await.map_err(Error::Credentials)?;

        let connect = async || remote::client(&self.source.url, self.source.ca_file.as_deref());
        let client = self.client.get_or_try_init(connect).await.map_err(Error::Credentials)?;
        let response = client.send(request).await.map_err(|error| unreachable(&error))?;
        let (head, body) = response.into_parts();
        if head.status.is_redirection() {
            let location = head.headers.get(header::LOCATION).and_then(|to| to.to_str().ok());
            return Err(Error::Redirected(location.unwrap_or("an address not given").into()));
        }
        let server_time = clock::date(&head.headers);
        let text = match Limited::new(body, self.size_limit).collect().await {
            Ok(text) => text.to_bytes().to_vec(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(Error::TooLarge(self.size_limit));
            }
            Err(error) => return Err(unreachable(&*error)),
        };
        if head.status != StatusCode::OK {
            // Prometheus explains a refused query in the body; a proxy in between does not.
            return Err(answer::failure(&text).unwrap_or(Error::Status(head.status.as_u16())));
        }
        Ok((text, server_time))
    }
}

/// The headers for one request to `source`.
async fn headers(source: &MetricsSource) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(header::CONTENT_TYPE, form);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(file) = &source.bearer_token_file {
        let token = remote::read(file).await?;
        headers.insert(header::AUTHORIZATION, remote::secret(file, &format!("Bearer {token}"))?);
    }
    if let Some(auth) = &source.basic_auth {
        let pair = format!("{}:{}", auth.username, remote::read(&auth.password_file).await?);
        let basic = format!("Basic {}", STANDARD.encode(pair));
        headers.insert(header::AUTHORIZATION, remote::secret(&auth.password_file, &basic)?);
    }
    remote::add(&source.headers, &mut headers).await?;
    Ok(headers)
}

fn unreachable(error: &(dyn std::error::Error + 'static)) -> Error {
    Error::Unreachable(remote::chain(error))
}

/// As the API wants it: seconds, to the millisecond.
fn seconds(at: Timestamp) -> String {
    let milliseconds = at.as_millisecond();
    format!("{}.{:03}", milliseconds.div_euclid(1000), milliseconds.rem_euclid(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_to_the_millisecond() {
        let at = |milliseconds| seconds(Timestamp::from_millisecond(milliseconds).unwrap());
        assert_eq!([at(1_700_000_000_007), at(999)], ["1700000000.007", "0.999"]);
    }
}
