//! The lines that a worker reads and answers; peers.py speaks the same.
//!
//! ```text
//! (at the start)           ready NAME | missing REASON
//! time JOB IMAGE           ok NANOSECONDS: of the processor, for one run
//! write JOB IMAGE FILE     ok BYTES: the output, little-endian f32, is in the file
//! memory JOB IMAGE         ok BYTES: by which the peak of the resident set passed what was resident before
//! (any of them)            no: this worker does not do such a job
//! ```

use std::io::{BufRead, Write};

use rustix::time::{ClockId, clock_gettime};

use crate::job::Job;
use crate::{Result, ours, turbo};

/// Something that does jobs.
pub(crate) trait Peer {
    /// Runs a job on an encoded image; the output stays valid until the next call.
    fn run(&mut self, job: Job, image: &[u8]) -> Result<&[f32]>;

    /// Lets go of what a caller without buffers of its own would not hold between two images.
    fn forget(&mut self);
}

/// Answers lines from standard input until it ends.
pub(crate) fn answer(name: &str, libjpeg: Option<&str>) -> Result<()> {
    let mut output = std::io::stdout().lock();
    let (name, mut peer): (String, Box<dyn Peer>) = match (name, libjpeg) {
        ("ours", _) => ("abstractllm, buffers reused".into(), Box::new(ours::Ours::new(true))),
        ("ours-fresh", _) => {
            ("abstractllm, fresh buffers".into(), Box::new(ours::Ours::new(false)))
        }
        ("turbo-fresh", Some(path)) => {
            let name = "libjpeg-turbo and fast_image_resize, fresh buffers";
            (name.into(), Box::new(turbo::Turbo::open(path, false)?))
        }
        ("turbo", Some(path)) => {
            let name = "libjpeg-turbo and fast_image_resize, buffers reused";
            (name.into(), Box::new(turbo::Turbo::open(path, true)?))
        }
        _ => return Err(format!("no worker is called {name}").into()),
    };
    writeln!(output, "ready {name}")?;
    let mut held: Option<(String, Vec<u8>)> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let [command, job, path, ref rest @ ..] = words[..] else {
            return Err(format!("expected COMMAND JOB IMAGE, found {line}").into());
        };
        let job: Job = job.parse()?;
        if held.as_ref().is_none_or(|(held, _)| held != path) {
            held = Some((path.to_owned(), std::fs::read(path)?));
        }
        let image = &held.as_ref().expect("an image was read").1;
        peer.forget();
        let answer = match (command, rest) {
            ("time", []) => {
                let started = processor_nanoseconds();
                peer.run(job, image)?;
                processor_nanoseconds() - started
            }
            ("write", [file]) => {
                let bytes: Vec<u8> =
                    peer.run(job, image)?.iter().flat_map(|value| value.to_le_bytes()).collect();
                std::fs::write(file, &bytes)?;
                bytes.len() as u64
            }
            ("memory", []) => {
                std::fs::write("/proc/self/clear_refs", "5")?;
                let before = resident("VmRSS")?;
                peer.run(job, image)?;
                resident("VmHWM")?.saturating_sub(before)
            }
            _ => return Err(format!("unknown command {line}").into()),
        };
        writeln!(output, "ok {answer}")?;
        output.flush()?;
    }
    Ok(())
}

/// Time that all threads of this process spent on a processor.
fn processor_nanoseconds() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn resident(field: &str) -> Result<u64> {
    benches::resident_bytes(field).ok_or_else(|| format!("no {field} in /proc/self/status").into())
}
