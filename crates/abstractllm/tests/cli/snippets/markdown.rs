//! What stands between fences in the documents of the repository.

use std::{fs, path::Path};

use crate::repository;

/// A fenced block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// The document, from the root of the repository.
    pub(crate) file: String,
    /// Where the block begins, as editors count.
    pub(crate) line: usize,
    /// What follows the fence: `rust,no_run`, `sh`, or nothing.
    pub(crate) language: String,
    pub(crate) lines: Vec<String>,
}

impl Block {
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    pub(crate) fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Whether this shows commands after `$`, and what they print.
    pub(crate) fn is_console(&self) -> bool {
        ["", "console"].contains(&self.language.as_str())
            && self.lines.first().is_some_and(|line| line.starts_with("$ "))
    }
}

/// Returns the documents: those in the root and in `docs`, and the cards of models.
pub(crate) fn documents() -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["", "docs", "models/tiny-vl"] {
        for entry in fs::read_dir(repository(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                found.push(Path::new(folder).join(name).to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn text(document: &str) -> String {
    fs::read_to_string(repository(document)).unwrap()
}

/// Returns the blocks of all documents.
pub(crate) fn blocks() -> Vec<Block> {
    documents().iter().flat_map(|file| blocks_of(file, &text(file))).collect()
}

fn blocks_of(file: &str, text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if inside => inside = false,
            Some(language) => {
                inside = true;
                let (file, language) = (file.to_owned(), language.trim().to_owned());
                found.push(Block { file, line: index + 1, language, lines: Vec::new() });
            }
            None if inside => found.last_mut().unwrap().lines.push(line.to_owned()),
            None => {}
        }
    }
    assert!(!inside, "{file}: a block without an end");
    found
}
