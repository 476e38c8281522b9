//! One scrape: the lines that are wanted, out of however many there are.

use super::exposition::metric;
use super::told::{Unusable, Whose, is_wanted};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::net::SocketAddr;
use std::time::Duration;

/// A whole exposition may be this large; it is read through and never held.
const MOST_BYTES: usize = 64 << 20;
/// What is kept of it may be this large.
const MOST_KEPT: usize = 8 << 20;
/// A pod that is cut off must not keep the others waiting.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Why a scrape gave nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("unreachable: {0}")]
    Unreachable(String),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("HTTP status {0}")]
    Status(StatusCode),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error(transparent)]
    Unusable(#[from] Unusable),
}

impl Error {
    /// One word from a closed set, for metrics labels.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut(_) => "timed_out",
            Self::Status(_) => "status",
            Self::TooLarge(_) => "too_large",
            Self::Unusable(_) => "unusable",
        }
    }
}

/// Plain HTTP, as both the sidecar's agent and istiod serve their metrics: under STRICT too, these
/// ports are not redirected.
#[derive(Clone)]
pub(super) struct Fetch(Client<HttpConnector, Empty<&'static [u8]>>);

impl Fetch {
    pub(super) fn new() -> Self {
        // A connection kept for a scrape in fifteen seconds costs both sides more than a new one.
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_LIMIT));
        Self(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
    }

    pub(super) async fn fetch(
        &self,
        address: SocketAddr,
        whose: Whose,
        limit: Duration,
    ) -> Result<String, Error> {
        tokio::time::timeout(limit, self.exchange(address, whose))
            .await
            .unwrap_or(Err(Error::TimedOut(limit)))
    }

    async fn exchange(&self, address: SocketAddr, whose: Whose) -> Result<String, Error> {
        let path = match whose {
            Whose::Proxy => "/stats/prometheus",
            Whose::ControlPlane => "/metrics",
        };
        let unreachable = |error: &dyn std::fmt::Display| Error::Unreachable(error.to_string());
        let url = Uri::try_from(format!("http://{address}{path}")).map_err(|e| unreachable(&e))?;
        // Else some would answer in another format.
        let request = Request::get(url)
            .header(header::ACCEPT, "text/plain;version=0.0.4")
            .body(Empty::new())
            .map_err(|error| unreachable(&error))?;
        let response = self.0.request(request).await.map_err(|error| unreachable(&error))?;
        if response.status() != StatusCode::OK {
            return Err(Error::Status(response.status()));
        }
        let (mut body, mut lines, mut read) = (response.into_body(), Lines::new(whose), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| unreachable(&error))?;
            let Some(data) = frame.data_ref() else { continue };
            read += data.len();
            if read > MOST_BYTES {
                return Err(Error::TooLarge(MOST_BYTES));
            }
            lines.take(data)?;
        }
        lines.finish()
    }
}

/// Takes bytes as they come and keeps the lines that are wanted.
struct Lines {
    whose: Whose,
    kept: Vec<u8>,
    /// The beginning of a line whose end has not come yet.
    open: Vec<u8>,
}

impl Lines {
    fn new(whose: Whose) -> Self {
        Self { whose, kept: vec![], open: vec![] }
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Error> {
        let mut pieces = data.split(|byte| *byte == b'\n');
        let last = pieces.next_back();
        for piece in pieces {
            if self.open.is_empty() {
                keep(&mut self.kept, piece, self.whose);
            } else {
                self.open.extend_from_slice(piece);
                keep(&mut self.kept, &self.open, self.whose);
                self.open.clear();
            }
        }
        self.open.extend_from_slice(last.unwrap_or_default());
        match self.kept.len() + self.open.len() > MOST_KEPT {
            true => Err(Error::TooLarge(MOST_KEPT)),
            false => Ok(()),
        }
    }

    fn finish(mut self) -> Result<String, Error> {
        keep(&mut self.kept, &self.open, self.whose);
        // What is no UTF-8 becomes a value that nobody else has; the numbers stay.
        Ok(String::from_utf8(self.kept)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }
}

fn keep(kept: &mut Vec<u8>, line: &[u8], whose: Whose) {
    // A metric's name is in ASCII; the longest that is wanted is shorter than this.
    let head = &line[..line.len().min(64)];
    let head = head.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    if metric(head).is_some_and(|metric| is_wanted(metric, whose)) {
        kept.extend_from_slice(line);
        kept.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_whole_however_they_are_cut() {
        let text = "# TYPE istio_requests_total counter\n\
            istio_requests_total{a=\"ü\"} 1\nenvoy_other 2\nistio_requests_totals 3\n\
            envoy_server_uptime{} 4";
        for size in 1..text.len() {
            let mut lines = Lines::new(Whose::Proxy);
            for piece in text.as_bytes().chunks(size) {
                lines.take(piece).unwrap();
            }
            let kept = lines.finish().unwrap();
            assert_eq!(kept, "istio_requests_total{a=\"ü\"} 1\nenvoy_server_uptime{} 4\n");
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let line = "istio_requests_total{a=\"1\"} 1\n".repeat(1000);
        let mut lines = Lines::new(Whose::Proxy);
        let most = MOST_KEPT / line.len() + 1;
        let taken = (0..most).map(|_| lines.take(line.as_bytes())).collect::<Result<Vec<_>, _>>();
        assert!(matches!(taken, Err(Error::TooLarge(_))));
        let endless = vec![b'x'; MOST_KEPT + 1];
        assert!(Lines::new(Whose::Proxy).take(&endless).is_err());
    }
}
