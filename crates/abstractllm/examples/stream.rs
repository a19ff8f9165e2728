//! Prints an answer while it is made: `cargo run --example stream [PROMPT]`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::io::{self, Write};

use abstractllm::{Event, GenerateParams, Request, Result, blocking, create_llm};

fn main() -> Result<()> {
    let prompt = std::env::args().nth(1).unwrap_or_else(|| "What can you do?".to_owned());
    let llm = create_llm("mlx", [("model", "tiny-vl")])?;

    let params = GenerateParams { max_tokens: Some(64), ..Default::default() };
    // Dropping the iterator, by `break` for instance, stops the model.
    for event in blocking::stream(&*llm, Request::text(prompt).with_params(params))? {
        match event? {
            Event::Text(piece) => {
                print!("{piece}");
                let _ = io::stdout().flush();
            }
            Event::End(end) => {
                let tokens = end.usage.completion_tokens;
                println!("\n({tokens} tokens, {:?})", end.reason);
            }
            _ => {}
        }
    }
    Ok(())
}
