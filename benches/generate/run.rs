//! The measurement: processes of both sides in turns, each alone on the machine.

use std::path::{Path, PathBuf};

use crate::{
    Result, batch,
    outcome::{Side, agreement},
    process, sample, table,
};

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    peers: bool,
    python: Option<PathBuf>,
    rounds: usize,
    tokens: String,
    requests: String,
    image: (u32, u32),
    /// Numbers of requests at a time, separated by commas.
    batch: Option<String>,
    write: bool,
}

impl Options {
    pub(crate) fn parse(mut arguments: &[&str]) -> Result<Self> {
        let mut options = Self {
            peers: false,
            python: None,
            rounds: 3,
            tokens: "200".to_owned(),
            requests: "3".to_owned(),
            image: (1920, 1080),
            batch: Some("1,4,16".to_owned()),
            write: false,
        };
        loop {
            arguments = match *arguments {
                [] => return Ok(options),
                ["--peers", ref rest @ ..] => {
                    options.peers = true;
                    rest
                }
                ["--write", ref rest @ ..] => {
                    options.write = true;
                    rest
                }
                ["--python", path, ref rest @ ..] => {
                    options.python = Some(path.into());
                    rest
                }
                ["--rounds", n, ref rest @ ..] => {
                    options.rounds = n.parse()?;
                    rest
                }
                ["--tokens", n, ref rest @ ..] => {
                    options.tokens = n.to_owned();
                    rest
                }
                ["--requests", n, ref rest @ ..] => {
                    options.requests = n.to_owned();
                    rest
                }
                ["--image", size, ref rest @ ..] => {
                    let (width, height) = size.split_once('x').ok_or("expected WIDTHxHEIGHT")?;
                    options.image = (width.parse()?, height.parse()?);
                    rest
                }
                ["--batch", sizes, ref rest @ ..] => {
                    options.batch = Some(sizes.to_owned());
                    rest
                }
                ["--no-batch", ref rest @ ..] => {
                    options.batch = None;
                    rest
                }
                [other, ..] => return Err(format!("unknown option {other}").into()),
            }
        }
    }
}

/// Measures the checkpoint in `folder` and prints a table.
pub(crate) fn run(folder: &Path, options: &Options) -> Result<()> {
    let work = std::env::temp_dir().join(format!("generate-{}", std::process::id()));
    std::fs::create_dir_all(&work)?;
    let result = run_in(&work, folder, options);
    std::fs::remove_dir_all(&work)?;
    result
}

fn run_in(work: &Path, folder: &Path, options: &Options) -> Result<()> {
    let image = work.join("image.png");
    sample::write(&image, options.image.0, options.image.1)?;
    let [folder_name, image] = [folder, &image].map(|path| path.display().to_string());
    let arguments = [&*folder_name, &*image, &*options.tokens, &*options.requests];

    let ours = std::env::current_exe()?;
    let mut commands = vec![(ours, vec!["worker"])];
    // Kept in this program, so that it can be carried to a machine without this repository.
    let script = work.join("peer.py");
    std::fs::write(&script, include_str!("peer.py"))?;
    let script = script.display().to_string();
    if options.peers {
        let python = match &options.python {
            Some(python) => python.clone(),
            None => benches::python::with_mlx_vlm()?,
        };
        commands.push((python, vec![script.as_str()]));
    }
    let mut sides: Vec<Side> = commands.iter().map(|_| Side { processes: Vec::new() }).collect();
    for round in 0..options.rounds {
        for (side, (program, first)) in sides.iter_mut().zip(&commands) {
            let all = [first.as_slice(), &arguments].concat();
            let process = process::run(program, &all, &work.join("stderr"))?;
            eprintln!("round {}: {}", round + 1, table::line(&process));
            side.processes.push(process);
        }
        if let ([ours, theirs], 0) = (sides.as_slice(), round) {
            let (common, total) = agreement(ours.words(), theirs.words());
            eprintln!("the first {common} of {total} words are equal");
            if common == 0 {
                eprintln!("so nothing says that both did the same: compare logits with parity.py");
            }
        }
    }
    let mut text = table::render(folder, &sides);
    if let Some(sizes) = &options.batch {
        let all = [arguments.as_slice(), &[sizes]].concat();
        text.push_str(&batch::run(&all, options.rounds, &work.join("stderr"))?);
    }
    println!("{text}");
    if options.write { table::write(folder, &text) } else { Ok(()) }
}
