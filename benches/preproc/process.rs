//! Workers as child processes, asked one line at a time.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::Result;
use crate::job::Job;

/// How to start a worker.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    program: String,
    arguments: Vec<String>,
}

/// A worker that runs.
pub(crate) struct Worker {
    /// What it calls itself, with the versions of what it uses.
    pub(crate) name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Recipe {
    pub(crate) fn new(program: &Path, arguments: &[&str]) -> Self {
        Self {
            program: program.display().to_string(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
        }
    }

    /// Starts the worker; the inner error says why it cannot work on this machine.
    pub(crate) fn start(&self) -> Result<Result<Worker, String>> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{} could not be started: {error}", self.program))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().ok_or("the worker has no output")?);
        let mut worker = Worker { name: String::new(), child, input, output };
        let line = worker.read()?;
        if let Some(name) = line.strip_prefix("ready ") {
            worker.name = name.to_owned();
            return Ok(Ok(worker));
        }
        Ok(Err(format!("{}: {line}", self.arguments.join(" "))))
    }
}

impl Worker {
    /// Processor time of one run in milliseconds, or `None` if the worker does not do such a job.
    pub(crate) fn time(&mut self, job: Job, image: &Path) -> Result<Option<f64>> {
        let nanoseconds = self.ask(&format!("time {job} {}", image.display()))?;
        Ok(nanoseconds.map(|nanoseconds| nanoseconds as f64 / 1e6))
    }

    /// Lets the worker write its output to `file`; false if it does not do such a job.
    pub(crate) fn write(&mut self, job: Job, image: &Path, file: &Path) -> Result<bool> {
        let line = format!("write {job} {} {}", image.display(), file.display());
        Ok(self.ask(&line)?.is_some())
    }

    /// Bytes by which one run raised the peak of resident memory.
    pub(crate) fn memory(&mut self, job: Job, image: &Path) -> Result<Option<u64>> {
        self.ask(&format!("memory {job} {}", image.display()))
    }

    fn ask(&mut self, line: &str) -> Result<Option<u64>> {
        let input = self.input.as_mut().ok_or("the worker has no input")?;
        writeln!(input, "{line}")?;
        input.flush()?;
        let answer = self.read()?;
        match answer.split_once(' ') {
            Some(("ok", number)) => Ok(Some(number.parse()?)),
            None if answer == "no" => Ok(None),
            _ => Err(format!("{} answered `{answer}` to `{line}`", self.name).into()),
        }
    }

    fn read(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(format!("worker {} ended without an answer", self.name).into());
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The end of its input ends a worker.
        self.input = None;
        let _ = self.child.wait();
    }
}
