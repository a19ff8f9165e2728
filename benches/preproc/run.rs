//! The comparison: check, then time in turns, then measure memory in fresh processes.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::compare::{self, Agreement};
use crate::job::Job;
use crate::process::{Recipe, Worker};
use crate::python::{self, Environment, SOURCES};
use crate::table;

const LARGE: &str = "photo_12_megapixels.jpg";
const CAP: u64 = 1_003_520;
const HIGH_CAP: u64 = 12_845_056;

/// What `Mode::Fast` promises, in dB.
const LEAST_PSNR: f64 = 48.0;

/// Each job, the image, and whether memory is measured, too.
const JOBS: [(Job, &str, bool); 9] = [
    (Job::Letterbox { side: 448 }, LARGE, true),
    (Job::Letterbox { side: 1024 }, LARGE, false),
    (Job::Qwen { max_pixels: CAP }, LARGE, true),
    (Job::Qwen { max_pixels: HIGH_CAP }, LARGE, true),
    (Job::Qwen { max_pixels: HIGH_CAP }, "photo_1080p.jpg", false),
    (Job::Qwen { max_pixels: HIGH_CAP }, "photo_480p.jpg", false),
    (Job::Fast { side: 448 }, LARGE, false),
    (Job::Fast { side: 224 }, LARGE, false),
    (Job::Fast { side: 224 }, "photo_1080p.jpg", false),
];

/// What the command line asks for.
pub(crate) struct Options {
    rounds: usize,
    torch: bool,
    dry: bool,
}

/// What one peer did with one job.
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) ours: bool,
    pub(crate) agreement: Agreement,
    /// Milliseconds, one for each round.
    pub(crate) times: Vec<f64>,
    /// Bytes, where it was measured.
    pub(crate) memory: Option<u64>,
}

struct Peer {
    recipe: Recipe,
    worker: Worker,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Ours,
    ReferenceOfLetterbox,
    ReferenceOfQwen,
    Other,
}

impl Options {
    pub(crate) fn parse(mut arguments: &[&str]) -> Result<Self> {
        let mut options = Self { rounds: 15, torch: true, dry: false };
        loop {
            arguments = match arguments {
                [] => return Ok(options),
                ["--rounds", number, rest @ ..] => {
                    options.rounds = number.parse()?;
                    rest
                }
                ["--no-torch", rest @ ..] => {
                    options.torch = false;
                    rest
                }
                ["--dry", rest @ ..] => {
                    options.dry = true;
                    rest
                }
                [other, ..] => {
                    return Err(format!("unknown option {other}\n{}", crate::USAGE).into());
                }
            };
        }
    }
}

/// Runs everything and writes the tables.
pub(crate) fn peers(options: &Options) -> Result<()> {
    let program = std::env::current_exe()?;
    // The program lies in `target/release`, and what it needs to keep goes beside that.
    let target = program.ancestors().nth(2).ok_or("the program lies in no target folder")?;
    let folder = target.join("bench-preproc");
    std::fs::create_dir_all(&folder)?;
    let environment = python::environment(&folder, options.torch)?;
    let mut peers = start(&program, &environment, options.torch)?;
    let mut tables = String::new();
    for (job, image, with_memory) in JOBS {
        let image = environment.images.join(image);
        let mut outcomes = check(&mut peers, job, &image, &folder)?;
        let rounds = time(&mut peers, &mut outcomes, job, &image, options.rounds)?;
        if with_memory {
            memory(&peers, &mut outcomes, job, &image)?;
        }
        let outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
        let table = table::render(job, &image, rounds, &outcomes);
        println!("{table}");
        tables.push_str(&table);
    }
    if options.dry { Ok(()) } else { table::write(&tables) }
}

fn start(program: &Path, environment: &Environment, torch: bool) -> Result<Vec<Peer>> {
    let libjpeg = environment.libjpeg.display().to_string();
    let script = PathBuf::from(SOURCES).join("peers.py").display().to_string();
    let rust = |arguments: &[&str]| Recipe::new(program, &[&["worker"], arguments].concat());
    let python = |name: &str| Recipe::new(&environment.python, &[script.as_str(), name]);
    let mut recipes = vec![
        (Kind::Ours, rust(&["ours"])),
        (Kind::Ours, rust(&["ours-fresh"])),
        (Kind::Other, rust(&["turbo", &libjpeg])),
        (Kind::Other, rust(&["turbo-fresh", &libjpeg])),
        (Kind::ReferenceOfLetterbox, python("pillow")),
        (Kind::Other, python("opencv")),
        (Kind::ReferenceOfQwen, python("transformers-pil")),
        (Kind::Other, python("mlx-vlm")),
    ];
    if torch {
        recipes.push((Kind::Other, python("transformers-torch")));
        recipes.push((Kind::Other, python("torchvision")));
    }
    let mut peers = Vec::new();
    for (kind, recipe) in recipes {
        match recipe.start()? {
            Ok(worker) => peers.push(Peer { recipe, worker, kind }),
            Err(reason) => eprintln!("preproc: left out: {reason}"),
        }
    }
    Ok(peers)
}

/// Lets every peer write its output and compares it with that of the reference; ours must be equal to the bit, or as near
/// as the fast mode promises.
fn check(
    peers: &mut [Peer],
    job: Job,
    image: &Path,
    folder: &Path,
) -> Result<Vec<Option<Outcome>>> {
    let reference = match job {
        Job::Letterbox { .. } | Job::Fast { .. } => Kind::ReferenceOfLetterbox,
        Job::Qwen { .. } => Kind::ReferenceOfQwen,
    };
    let (expected, found) = (folder.join("expected.f32"), folder.join("found.f32"));
    let peer = peers.iter_mut().find(|peer| peer.kind == reference);
    let peer = peer.ok_or("the reference is not installed, so nothing can be checked")?;
    if !peer.worker.write(job.exact(), image, &expected)? {
        return Err(format!("{} does not do {job}", peer.worker.name).into());
    }
    let mut outcomes = Vec::new();
    for peer in peers {
        if !peer.worker.write(job, image, &found)? {
            outcomes.push(None);
            continue;
        }
        let name = peer.worker.name.clone();
        let agreement = compare::files(job, &expected, &found)
            .map_err(|error| format!("{job} by {name}: {error}"))?;
        let ours = peer.kind == Kind::Ours;
        let sound = match (job, &agreement) {
            (_, Agreement::Equal) => true,
            (Job::Fast { .. }, Agreement::Levels { psnr, .. }) => *psnr >= LEAST_PSNR,
            _ => false,
        };
        if ours && !sound {
            return Err(format!("{job} by {name} differs from the reference: {agreement:?}").into());
        }
        outcomes.push(Some(Outcome { name, ours, agreement, times: Vec::new(), memory: None }));
    }
    std::fs::remove_file(expected)?;
    std::fs::remove_file(found)?;
    Ok(outcomes)
}

/// One run of each peer in every round, so that all of them see the same neighbours on the machine.
fn time(
    peers: &mut [Peer],
    outcomes: &mut [Option<Outcome>],
    job: Job,
    image: &Path,
    rounds: usize,
) -> Result<usize> {
    for round in 0..rounds {
        let count = peers.len();
        for turn in 0..count {
            // Another peer begins each round, so that none always follows the same one.
            let index = (turn + round) % count;
            if let Some(outcome) = &mut outcomes[index] {
                outcome.times.extend(peers[index].worker.time(job, image)?);
            }
        }
    }
    Ok(rounds)
}

fn memory(peers: &[Peer], outcomes: &mut [Option<Outcome>], job: Job, image: &Path) -> Result<()> {
    for (peer, outcome) in peers.iter().zip(outcomes) {
        // Only Linux says how much was resident at most.
        if let Some(outcome) = outcome.as_mut().filter(|_| cfg!(target_os = "linux")) {
            outcome.memory = peer.recipe.start()??.memory(job, image)?;
        }
    }
    Ok(())
}
