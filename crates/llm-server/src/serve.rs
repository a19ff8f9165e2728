//! The server: routes, connections, and its end.

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    middleware::from_fn_with_state,
    routing::{get, post},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use llm_core::Provider;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    admission::Admission,
    auth, chat,
    error::ApiError,
    metrics, models,
    options::ServerOptions,
    state::{App, now},
};

/// Longest time that the head of a request may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// Models behind HTTP.
#[derive(Clone, Debug)]
pub struct Server {
    app: Arc<App>,
}

impl Server {
    /// Returns a server of `models`, each with the name that clients call it by.
    pub fn new(
        models: impl IntoIterator<Item = (String, Arc<dyn Provider>)>,
        options: ServerOptions,
    ) -> Self {
        Self {
            app: Arc::new(App {
                models: models.into_iter().collect(),
                admission: Arc::new(Admission::new(&options)),
                requests: metrics::Requests::default(),
                created: now(),
                options,
            }),
        }
    }

    /// Returns the routes, for a server of one's own; [`run`](Self::run) adds bounds on connections.
    pub fn router(&self) -> Router {
        let app = &self.app;
        Router::new()
            .route("/v1/chat/completions", post(chat::completions))
            .route("/v1/models", get(models::list))
            .route("/v1/models/{*name}", get(models::one))
            .route("/metrics", get(metrics::metrics))
            .fallback(not_found)
            .method_not_allowed_fallback(wrong_method)
            .layer(from_fn_with_state(app.clone(), auth::require_key))
            .route("/health", get(metrics::health))
            .layer(from_fn_with_state(app.clone(), auth::require_host))
            .layer(from_fn_with_state(app.clone(), metrics::count))
            .with_state(app.clone())
    }

    /// Serves `listener` until `stop` is ready. Then requests that wait are refused, and answers in
    /// the making have [`ServerOptions::shutdown_grace`] to end.
    ///
    /// # Errors
    /// If connections cannot be accepted any more.
    pub async fn run(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let options = &self.app.options;
        let service = TowerToHyperService::new(self.router());
        let places =
            Arc::new(Semaphore::new(options.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            let accepted = async {
                // Never closed.
                let place = places.clone().acquire_owned().await.ok();
                (accept(&listener).await, place)
            };
            let (stream, place) = tokio::select! {
                (stream, place) = accepted => (stream?, place),
                () = &mut stop => break,
            };
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service.clone());
            let connection = graceful.watch(connection);
            connections.spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection broke");
                }
                drop(place);
            });
            while connections.try_join_next().is_some() {}
        }
        drop(listener);
        self.app.admission.close();
        if tokio::time::timeout(options.shutdown_grace, graceful.shutdown()).await.is_err() {
            tracing::warn!("answers were still being made when the server ended");
        }
        Ok(())
    }
}

/// Waits for a connection; one that fails before it is one counts for nothing.
async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Pieces of an answer are small, and wanted at once.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) if is_of_connection(&error) => {}
            // Out of file descriptors or memory, say: somebody will leave.
            Err(error) if error.raw_os_error().is_some() => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn not_found(request: Request) -> ApiError {
    let message = format!("there is nothing at {}", request.uri().path());
    ApiError::new(StatusCode::NOT_FOUND, message)
}

async fn wrong_method(request: Request) -> ApiError {
    let message = format!("{} is not a method of {}", request.method(), request.uri().path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}
