//! The command `report`: shows performance reports and compares them.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use abstractllm::{
    Error, ErrorKind,
    perf::{Comparison, Environment, Report, Verdict, compare_runs},
};

use crate::{
    failure::{Failure, say},
    output,
    report_args::{CompareArgs, CompareFormat, ReportAction, ReportArgs, ShowArgs, ShowFormat},
};

/// Most bytes of a report; a full one of the default monitor has some 10 MB.
const MAX_REPORT_BYTES: u64 = 256 << 20;

/// Columns of a table that no terminal shows.
const FILE_COLUMNS: usize = 80;

pub(crate) fn run(args: &ReportArgs, quiet: bool) -> Result<(), Failure> {
    match &args.action {
        ReportAction::Show(args) => show(args),
        ReportAction::Compare(args) => compare(args, quiet),
    }
}

/// Checks, before anything long is begun, that a report may be written to `path`.
pub(crate) fn check_target(path: &Path) -> Result<(), Error> {
    // `parent` of a bare file name is the empty path, which means here.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let problem = match folder {
        _ if path.is_dir() => "it is a folder",
        Some(folder) if !folder.is_dir() => "its folder does not exist",
        _ => return Ok(()),
    };
    let message = format!("cannot write the report to {}: {problem}", path.display());
    Err(Error::new(ErrorKind::Io, message))
}

/// Writes a report, as JSON or in another form, to `path`.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|error| {
        let message = format!("cannot write the report to {}", path.display());
        Error::new(ErrorKind::Io, message).with_source(error)
    })
}

fn show(args: &ShowArgs) -> Result<(), Failure> {
    let report = read(&args.file)?;
    let columns = || match args.output {
        Some(_) => FILE_COLUMNS,
        None => console::Term::stdout().size().1.into(),
    };
    let mut text = match args.format {
        ShowFormat::Terminal => report.to_terminal(columns()),
        ShowFormat::Markdown => report.to_markdown(),
        ShowFormat::Html => report.to_html(),
        ShowFormat::Prometheus => report.to_prometheus(),
        ShowFormat::Trace => report.to_trace(),
        ShowFormat::Json => report.to_json(),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    match &args.output {
        Some(path) => Ok(write(path, &text)?),
        None => Ok(output::write_text(&text)?),
    }
}

fn compare(args: &CompareArgs, quiet: bool) -> Result<(), Failure> {
    let (before, after) = (read_runs(&args.before)?, read_runs(&args.after)?);
    if !quiet {
        note_other_machines(&before, &after);
    }
    let comparison = compare_runs(&before, &after, args.fail_over);
    match args.format {
        CompareFormat::Terminal => output::write_text(&comparison.to_terminal())?,
        CompareFormat::Markdown => output::write_text(&comparison.to_markdown())?,
        CompareFormat::Json => output::pretty(&comparison)?,
    }
    judge(&comparison)
}

/// A gate that judged nothing has not passed.
fn judge(comparison: &Comparison) -> Result<(), Failure> {
    if comparison.judged() == 0 {
        let message = "nothing can be judged: no series has five values on both sides; pass \
                       folders with the reports of five runs and more";
        return Err(Error::new(ErrorKind::InvalidRequest, message).into());
    }
    let worse = comparison.series.iter().filter(|series| series.verdict == Verdict::Regression);
    match worse.count() {
        0 => Ok(()),
        count => {
            say(&format!(
                "error: {count} of {} series grew by more than {} %, beyond noise",
                comparison.judged(),
                comparison.fail_over * 100.0
            ));
            Err(Failure::Reported)
        }
    }
}

/// A difference between machines is none of the program.
fn note_other_machines(before: &[Report], after: &[Report]) {
    let machine = |Environment { os, arch, cpus, memory_total, .. }: &Environment| {
        // Virtual machines of one kind differ in the last megabytes.
        format!("{os} on {arch}, {cpus} CPUs, {} GiB", memory_total >> 30)
    };
    let mut machines: Vec<_> =
        before.iter().chain(after).map(|report| machine(&report.environment)).collect();
    machines.sort();
    machines.dedup();
    if machines.len() > 1 {
        say(&format!("note: the reports are of different machines: {}", machines.join("; ")));
    }
}

/// Reads the report in `path`, or all that are in the folder `path`.
fn read_runs(path: &Path) -> Result<Vec<Report>, Error> {
    if !path.is_dir() {
        return Ok(vec![read_measured(path)?]);
    }
    let unreadable = |error| {
        let message = format!("cannot read the folder {}", path.display());
        Error::new(ErrorKind::Io, message).with_source(error)
    };
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        files.push(entry.map_err(unreadable)?.path());
    }
    files.retain(|file| file.extension() == Some(OsStr::new("json")));
    files.sort();
    if files.is_empty() {
        let message = format!("no report (*.json) in the folder {}", path.display());
        return Err(Error::new(ErrorKind::InvalidRequest, message));
    }
    files.iter().map(|file| read_measured(file)).collect()
}

/// Reads a report that has something to compare.
fn read_measured(path: &Path) -> Result<Report, Error> {
    let report = read(path)?;
    match report.operations.is_empty() && report.events.is_empty() {
        true => Err(Error::new(
            ErrorKind::InvalidRequest,
            format!("{}: nothing was measured: no operation and no phase", path.display()),
        )),
        false => Ok(report),
    }
}

fn read(path: &Path) -> Result<Report, Error> {
    let mut bytes = Vec::new();
    let opened = File::open(path);
    let read = opened.and_then(|file| file.take(MAX_REPORT_BYTES + 1).read_to_end(&mut bytes));
    let name = path.display();
    read.map_err(|error| {
        Error::new(ErrorKind::Io, format!("cannot read the report {name}")).with_source(error)
    })?;
    let wrong = |what: &str| Error::new(ErrorKind::InvalidRequest, format!("{name}: {what}"));
    if bytes.len() as u64 > MAX_REPORT_BYTES {
        return Err(wrong(&format!("expected a report, found more than {MAX_REPORT_BYTES} bytes")));
    }
    let text = str::from_utf8(&bytes).map_err(|_| wrong("expected a report, found no text"))?;
    Report::from_json(text)
        .map_err(|error| Error::new(ErrorKind::InvalidRequest, name.to_string()).with_source(error))
}
