//! Any bytes as the answer of a server, in pieces: where they are cut changes nothing.
#![no_main]

use futures_executor::block_on;
use http_backend::fuzzing::{Service, answer, failure};
use libfuzzer_sys::fuzz_target;

// The first byte says how what follows is read, and in pieces of which size.
fuzz_target!(|bytes: &[u8]| {
    let Some((&how, body)) = bytes.split_first() else { return };
    let service = if how & 1 == 0 { Service::OpenAi } else { Service::Anthropic };
    let json = how & 2 != 0;
    let stop = if how & 4 == 0 { vec![] } else { vec!["b\n".to_owned(), "stop".to_owned()] };
    let read = |size: usize| {
        let pieces = body.chunks(size).map(|piece| piece.to_vec().into()).collect();
        block_on(answer(service, json, pieces, stop.clone()))
    };
    let size = usize::from(how >> 3) + 1;
    match (read(body.len().max(1)), read(size)) {
        (Ok(whole), Ok(pieces)) => {
            assert_eq!(whole.text, pieces.text);
            assert_eq!(whole.tool_calls, pieces.tool_calls);
            assert_eq!(whole.completion.reason, pieces.completion.reason);
            assert_eq!(whole.completion.usage, pieces.completion.usage);
            let stopped = |stop: &String| whole.text.contains(stop);
            assert!(!stop.iter().any(stopped), "a stop text was handed on");
        }
        // A line that is none makes an error of what came with it in one piece.
        (Err(_), _) => {}
        (Ok(whole), Err(pieces)) => panic!("{whole:?} and {pieces}"),
    }
    let names = ["retry-after", "retry-after-ms", "x-ratelimit-reset-requests"];
    let used_up = [("x-ratelimit-remaining-requests", &b"0"[..])];
    let headers: Vec<_> = names.map(|name| (name, body)).into_iter().chain(used_up).collect();
    failure(body, &headers);
});
