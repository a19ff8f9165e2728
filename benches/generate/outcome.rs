//! What was measured, and the numbers that stand for many of them.

/// One answer of one process.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) prompt_tokens: f64,
    pub(crate) tokens: f64,
    /// Seconds from the request to the first token, preprocessing and tower included.
    pub(crate) first_s: f64,
    /// Tokens a second after the first.
    pub(crate) decode: f64,
    /// Most bytes in arrays of MLX since the process began.
    pub(crate) peak_bytes: f64,
    /// Most resident memory of the process since it began, in bytes.
    pub(crate) resident_bytes: f64,
    pub(crate) words: Vec<String>,
}

/// One process: it loads the model and answers, the first time cold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) device: String,
    pub(crate) load_s: f64,
    /// Seconds from the start of the process to the first token.
    pub(crate) cold_s: Option<f64>,
    pub(crate) answers: Vec<Answer>,
}

/// All processes of one side.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) processes: Vec<Process>,
}

impl Side {
    pub(crate) fn name(&self) -> &str {
        self.processes.first().map_or("", |process| process.name.as_str())
    }

    pub(crate) fn device(&self) -> &str {
        self.processes.first().map_or("", |process| process.device.as_str())
    }

    /// Values of the answers that were not the first of their process.
    pub(crate) fn warm(&self, value: impl Fn(&Answer) -> f64) -> Vec<f64> {
        let answers = self.processes.iter().flat_map(|process| process.answers.iter().skip(1));
        answers.map(value).collect()
    }

    pub(crate) fn each(&self, value: impl Fn(&Process) -> f64) -> Vec<f64> {
        self.processes.iter().map(value).collect()
    }

    /// What counts up while a process runs, as it is after the last answer of each.
    pub(crate) fn at_end(&self, value: impl Fn(&Answer) -> f64) -> Vec<f64> {
        self.processes.iter().filter_map(|process| process.answers.last()).map(value).collect()
    }

    pub(crate) fn words(&self) -> &[String] {
        let answer = self.processes.first().and_then(|process| process.answers.first());
        answer.map_or(&[], |answer| &answer.words)
    }
}

/// How many words two answers have in common from the beginning on, and how many the longer has.
pub(crate) fn agreement(a: &[String], b: &[String]) -> (usize, usize) {
    let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    (common, a.len().max(b.len()))
}

/// The smallest and the largest.
pub(crate) fn spread(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &value| {
        (low.min(value), high.max(value))
    })
}
