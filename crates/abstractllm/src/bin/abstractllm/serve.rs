//! The command `serve`.

use std::{
    env, fs, io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use abstractllm::{
    Error, ErrorKind, Result,
    perf::{MonitorOptions, PerformanceMonitor},
    vision::Limits,
};
use llm_server::{ApiKey, ImageSource, Server, ServerOptions, UnknownFields};
use serde_json::json;
use signal_hook::low_level;
use tokio::{
    net::TcpListener,
    runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    failure::{Failure, say},
    fetch::Fetched,
    load::Wanted,
    output,
    progress::Bars,
    serve_args::{ListenArgs, ServeArgs},
};

const KEY_VARIABLE: &str = "ABSTRACTLLM_API_KEY";

/// A server runs for days, and nobody looks at its memory twenty times a second.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &ServeArgs, quiet: bool) -> std::result::Result<(), Failure> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| failed("cannot start the server's threads", e))?;
    let options = options(args)?;
    let wanted = Wanted::of(&args.model)?;
    for name in wanted.adapters()? {
        if name == wanted.name() || args.listen.alias.contains(&name) {
            let message = format!("`{name}` would be the name of the model and of an adapter");
            return Err(Failure::Usage("serve", message));
        }
    }
    // Before the model is loaded, which can take minutes, and that much earlier in the way of
    // whoever wants the same port.
    let address = SocketAddr::new(args.listen.host, args.listen.port);
    let listener = runtime
        .block_on(TcpListener::bind(address))
        .map_err(|e| failed(&format!("cannot listen at {address}"), e))?;
    let address = listener.local_addr().map_err(|e| failed("cannot listen", e))?;

    let bars = Bars::new(quiet);
    let model = wanted.load(Limits::default(), options.monitor.as_ref(), &bars, quiet)?;
    let names = [&model.name].into_iter().chain(&args.listen.alias);
    let models = names.map(|name| (name.clone(), model.provider.clone()));
    let models = models.chain(model.adapted.clone());
    let server = Server::new(models, options);
    // From here on Ctrl-C no longer ends the program by itself.
    let signals = {
        let _guard = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate()].map(signal)
    };
    let [interrupt, terminate] = signals;
    let (interrupt, terminate) = interrupt
        .and_then(|interrupt| Ok((interrupt, terminate?)))
        .map_err(|e| failed("cannot listen for Ctrl-C", e))?;
    ready(address, &model.name, args.json)?;
    let stop = stopped(interrupt, terminate, quiet);
    runtime.block_on(server.run(listener, stop)).map_err(|e| failed("the server ended", e))?;
    model.flush();
    Ok(())
}

fn options(args: &ServeArgs) -> std::result::Result<ServerOptions, Failure> {
    let api_keys = keys(args.listen.api_key_file.as_deref(), args.listen.without_key)?;
    let listen = &args.listen;
    let is_local = listen.host.is_loopback();
    if api_keys.is_empty() && !is_local && !listen.without_key {
        let host = listen.host;
        let message = format!(
            "others reach {host}, and would need no key: give --api-key-file FILE or set \
             {KEY_VARIABLE}, or allow it with --without-key"
        );
        return Err(Failure::Usage("serve", message));
    }
    let bounds = &args.bounds;
    let max_body_bytes = usize::try_from(bounds.max_body.0).unwrap_or(usize::MAX);
    let usual = ServerOptions::default();
    let images: Arc<dyn ImageSource> = match listen.fetch_images {
        true => {
            let private = listen.allow_private_addresses;
            Arc::new(Fetched::new(bounds.max_body.0, usual.body_timeout, private))
        }
        false => usual.images.clone(),
    };
    Ok(ServerOptions {
        images,
        allowed_hosts: match is_local && api_keys.is_empty() {
            true => local_names(listen),
            false => Vec::new(),
        },
        api_keys,
        max_body_bytes,
        max_running: bounds.max_running,
        max_waiting: bounds.max_waiting,
        max_wait: bounds.max_wait,
        shutdown_grace: bounds.grace,
        unknown_fields: match listen.ignore_unknown_fields {
            true => UnknownFields::Ignore,
            false => UnknownFields::Refuse,
        },
        monitor: Some(PerformanceMonitor::new(MonitorOptions {
            sample_interval: SAMPLE_INTERVAL,
            ..MonitorOptions::default()
        })),
        ..usual
    })
}

/// The names that this machine calls itself by.
fn local_names(listen: &ListenArgs) -> Vec<String> {
    let own = match listen.host {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).into_iter().chain([own]).collect()
}

fn keys(file: Option<&Path>, without: bool) -> Result<Vec<ApiKey>> {
    if without {
        return Ok(Vec::new());
    }
    let Some(path) = file else {
        let set = env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty());
        return set.into_iter().map(ApiKey::new).collect();
    };
    let in_file = |what: String| Error::new(ErrorKind::Io, format!("{}: {what}", path.display()));
    let text = fs::read_to_string(path)
        .map_err(|e| in_file("cannot read the keys".to_owned()).with_source(e))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let keys = lines.map(ApiKey::new).collect::<Result<Vec<_>>>()?;
    match keys.is_empty() {
        true => Err(in_file("there is no key in it".to_owned())),
        false => Ok(keys),
    }
}

/// Tells whoever started the server that it can be asked.
fn ready(address: SocketAddr, model: &str, json: bool) -> io::Result<()> {
    let url = format!("http://{address}/v1");
    match json {
        true => output::line(&json!({"event": "ready", "url": url, "model": model})),
        false => output::write_text(&format!("{model} can be asked at {url}\n")),
    }
}

/// Waits for Ctrl-C or SIGTERM; a second one ends the program.
async fn stopped(mut interrupt: Signal, mut terminate: Signal, quiet: bool) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    if !quiet {
        say("stopping: answers in the making end first; Ctrl-C again ends them");
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => low_level::exit(130),
            _ = terminate.recv() => low_level::exit(143),
        }
    });
}

fn failed(what: &str, error: io::Error) -> Failure {
    Failure::Error(Error::new(ErrorKind::Io, what).with_source(error))
}
