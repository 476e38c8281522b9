//! What each evaluation does and how long it takes, as OpenTelemetry's traces over OTLP.
//!
//! Off unless the administrator names a collector. Nothing waits for it: spans stand in a bounded
//! queue, a thread of its own sends them every few seconds, and what the collector does not take in
//! time is dropped. No decision stands on any of this.

use crate::{config, remote};
use async_trait::async_trait;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use kube::Client;
use kube::client::Body;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

/// The target of the spans that are traces' and not the log's.
pub const SPANS: &str = "meshrollout::spans";

/// What is told of this program beside its spans.
const NAME: &str = "meshrollout";
/// Spans that wait to be sent; more are dropped. An evaluation makes about twenty.
const QUEUE: usize = 2048;
/// Between two requests.
const RHYTHM: Duration = Duration::from_secs(5);
/// Of one request. The next batch is not far.
const LIMIT: Duration = Duration::from_secs(5);
/// Nobody waits longer for the last spans of a process that ends.
const FAREWELL: Duration = Duration::from_secs(2);
/// Of an answer, which says next to nothing.
const MOST_BYTES: usize = 64 << 10;

/// The way to a collector.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// To this collector, as `identity`. Nothing is opened before the first spans are sent.
    ///
    /// Needs a tokio runtime that goes on for as long as spans are to be sent.
    pub fn to(collector: &config::Traces, identity: &str) -> Result<Self, ExporterBuildError> {
        let (at, client) = (collector.clone(), OnceCell::new());
        let collector = Arc::new(Collector { at, client, silent: AtomicBool::new(false) });
        let exporter = SpanExporter::builder()
            .with_http()
            // The path is what counts: `Collector` knows where it goes.
            .with_endpoint("http://collector/v1/traces")
            .with_timeout(LIMIT)
            .with_http_client(OnRuntime { collector, runtime: Handle::current() })
            .build()?;
        let resource = Resource::builder()
            .with_service_name(NAME)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", identity.to_owned()))
            .build();
        // Said here, so that nothing in the environment says otherwise.
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(QUEUE / 4)
            .with_scheduled_delay(RHYTHM)
            .build();
        let sending = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(sending)
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource)
            .build();
        Ok(Self(provider))
    }

    /// What takes the spans, and our own lines in the log as their events.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        // kube's own spans would be one for each request that carries spans, without end.
        let ours = Targets::new().with_target(NAME, LevelFilter::INFO);
        let spans = tracing_opentelemetry::layer().with_tracer(self.0.tracer(NAME));
        // Where in our sources and on which thread is nobody's question.
        let spans = spans.with_location(false).with_threads(false).with_target(false);
        spans.with_tracked_inactivity(false).with_filter(ours)
    }

    /// Sends what has not been sent yet, within two seconds.
    pub async fn end(self) {
        let ending = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FAREWELL));
        if !matches!(ending.await, Ok(Ok(()))) {
            tracing::debug!("the last traces were not taken in time");
        }
    }
}

/// The collector, as requests reach it.
struct Collector {
    at: config::Traces,
    client: OnceCell<Client>,
    /// It did not take what was sent last: said once, not every few seconds.
    silent: AtomicBool,
}

impl Collector {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        let answer = tokio::time::timeout(LIMIT, self.exchange(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")));
        let refused = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("HTTP status {}", answer.status())),
            Err(why) => Some(why.clone()),
        };
        let was_silent = self.silent.swap(refused.is_some(), Ordering::Relaxed);
        let collector = &self.at.url;
        match refused {
            Some(why) if !was_silent => {
                tracing::warn!(
                    %collector, why,
                    "traces are not taken; they are dropped, and nothing else depends on it"
                );
            }
            None if was_silent => tracing::info!(%collector, "traces are taken again"),
            Some(_) | None => {}
        }
        answer
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        let (head, body) = request.into_parts();
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri.path().parse().map_err(|_| "no such path".to_owned())?;
        // No others: the exporter adds what the environment says, which is meant for whoever is
        // named there.
        let kind = head.headers.get(CONTENT_TYPE).map(|kind| (CONTENT_TYPE, kind.clone()));
        request.headers_mut().extend(kind);
        remote::add(&self.at.headers, request.headers_mut()).await?;

        let connect = async || remote::client(&self.at.url, self.at.ca_file.as_deref());
        let client = self.client.get_or_try_init(connect).await?;
        let answer = client.send(request).await.map_err(|error| remote::chain(&error))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MOST_BYTES).collect().await;
        let body = body.map_err(|error| remote::chain(&*error))?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

/// Spans are sent from a thread that is none of tokio's, where nothing of it works.
struct OnRuntime {
    collector: Arc<Collector>,
    runtime: Handle,
}

impl std::fmt::Debug for OnRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OnRuntime").field(&self.collector.at.url).finish()
    }
}

#[async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let collector = Arc::clone(&self.collector);
        let sending = self.runtime.spawn(async move { collector.send(request).await });
        Ok(sending.await??)
    }
}
