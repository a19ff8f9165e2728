//! A file system of a few kilobytes, really full when it is full and read-only when it is, whoever runs the
//! tests.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::Run;

/// A tmpfs in a mount namespace of its own, which a process holds until this is dropped. Programs see it
/// through [`enter`](Self::enter), tests at [`outside`](Self::outside).
pub(super) struct Disk {
    holder: Child,
    folder: tempfile::TempDir,
}

impl Disk {
    /// Returns an empty one of `size` (`300k`); `None`, with a message, where users may not mount.
    pub(super) fn new(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let script = "mount -t tmpfs -o size=\"$1\" tmpfs \"$2\" && echo ready && exec cat";
        let holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", size])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut holder = match holder {
            Ok(holder) => holder,
            Err(error) => return skipped(&error.to_string()),
        };
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line == "ready\n" {
            return Some(Self { holder, folder });
        }
        let mut why = String::new();
        holder.stderr.take().unwrap().read_to_string(&mut why).unwrap();
        holder.wait().unwrap();
        skipped(why.trim())
    }

    /// Returns the path of the file system, for programs in it.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Returns where this process sees the file `name`.
    pub(super) fn outside(&self, name: &str) -> PathBuf {
        let inside = self.path().strip_prefix("/").unwrap();
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(inside).join(name)
    }

    /// Returns `program` as a process that sees this file system.
    pub(super) fn enter(&self, program: &Command) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--user", "--mount", "--preserve-credentials", "--target"]);
        command.arg(self.holder.id().to_string()).arg("--");
        command.arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(super) fn run(&self, program: &Command) -> Run {
        self.enter(program).output().unwrap().into()
    }

    /// Changes the file system: `size=4m`, `ro`, `rw`.
    pub(super) fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{options}")]).arg(self.path());
        self.run(&mount).ok();
    }

    /// Fills the file system until no more than `left` bytes go in; removing the file that this returns makes
    /// room again.
    pub(super) fn fill(&self, left: usize) -> PathBuf {
        let ballast = self.outside("ballast");
        let mut file = fs::File::create(&ballast).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
        let full = file.metadata().unwrap().len();
        file.set_len(full.saturating_sub(left as u64)).unwrap();
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[expect(clippy::print_stderr, reason = "whoever runs the tests should know")]
fn skipped(why: &str) -> Option<Disk> {
    eprintln!("SKIPPED: no small file system: {why}");
    None
}
