use std::future::Future;

use axum::Router;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::{Doing, Error};

/// The thread on which the harness' own HTTP servers and watches run.
///
/// Apart from the test's runtime: a test that blocks its only thread must not starve Prometheus.
pub(crate) struct Servers {
    runtime: Option<Runtime>,
}

impl Servers {
    pub(crate) fn start() -> Result<Self, Error> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("harness-servers")
            .enable_all()
            .build()
            .doing("starting the servers' runtime")?;
        Ok(Self { runtime: Some(runtime) })
    }

    fn handle(&self) -> &Handle {
        // Only drop takes the runtime away.
        self.runtime.as_ref().expect("runtime is there until drop").handle()
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle().spawn(task);
    }

    /// Runs a future there and waits for its value here.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Error> {
        self.handle().spawn(task).await.doing("running on the servers' runtime")
    }

    pub(crate) async fn serve(&self, port: u16, routes: Router) -> Result<(), Error> {
        let listener = self
            .run(tokio::net::TcpListener::bind(("127.0.0.1", port)))
            .await?
            .doing(format!("listening on port {port}"))?;
        self.spawn(async move {
            // Serving ends with the runtime only.
            let _ = axum::serve(listener, routes).await;
        });
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Waiting for the tasks would panic inside a test's own runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
