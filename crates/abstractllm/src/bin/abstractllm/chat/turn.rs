//! A question, its answer, and Ctrl-C in between.

use std::{io, time::Instant};

use abstractllm::{
    Completion, Error, ErrorKind, Event, FinishReason, Message, Notice, Part, Response,
};

use super::Chat;
use crate::{
    answer::length_note,
    failure::{Failure, say},
    images::Summary,
    output::{self, Answer, Problem, Times},
};

/// What was heard of an answer so far.
#[derive(Default)]
struct Heard {
    text: String,
    notices: Vec<Notice>,
    /// Why nothing more could be printed.
    failed: Option<io::Error>,
}

impl Chat<'_> {
    /// Asks `line`, with the images that wait.
    pub(super) fn ask(&mut self, line: String) -> Result<(), Failure> {
        let waiting = std::mem::take(&mut self.waiting);
        let (images, summaries): (Vec<Part>, Vec<Summary>) = waiting.into_iter().unzip();
        let question = Message::user(images.into_iter().chain([Part::Text(line)]));
        let started = Instant::now();
        let mut heard = Heard::default();
        let (json, quiet, bars) = (self.args.json, self.quiet, &self.bars);
        let on_event = |event: &Event| match event {
            Event::Progress(progress) => bars.step(*progress),
            Event::Notice(notice) => {
                bars.clear();
                if !quiet {
                    say(&format!("note: {notice}"));
                }
                heard.notices.push(*notice);
            }
            Event::Text(piece) => {
                bars.clear();
                heard.text.push_str(piece);
                if !json && heard.failed.is_none() {
                    heard.failed = output::write_text(piece).err();
                }
            }
            _ => {}
        };
        self.interrupts.begin_answer();
        let answered = {
            let asking = self.session.ask_with(&*self.model.provider, question.clone(), on_event);
            self.interrupts.race(asking)
        };
        self.interrupts.end_answer();
        self.bars.clear();
        if let Some(error) = heard.failed.take() {
            return Err(error.into());
        }
        let times = started.elapsed().as_secs_f64();
        match answered {
            Some(Ok(response)) => {
                self.show(&heard, &summaries, times, Ok(&response))?;
                self.keep()?;
                let Completion { reason, usage, .. } = response.completion;
                if reason == FinishReason::Length && !self.quiet {
                    let max_tokens = self.session.params.max_tokens;
                    let max_tokens = max_tokens.unwrap_or(self.model.max_tokens);
                    say(&length_note(max_tokens, usage.completion_tokens));
                }
                Ok(())
            }
            Some(Err(error)) => {
                self.show(&heard, &summaries, times, Err(Problem::from(&error)))?;
                Err(error.into())
            }
            None => {
                // The model should know what it has said, as the person does.
                if !heard.text.is_empty() {
                    self.session.record(question, heard.text.clone())?;
                    self.keep()?;
                }
                let stopped = Problem::new(ErrorKind::Cancelled, "interrupted");
                Ok(self.show(&heard, &summaries, times, Err(stopped))?)
            }
        }
    }

    /// Prints what is left to print of an answer.
    fn show(
        &self,
        heard: &Heard,
        images: &[Summary],
        seconds: f64,
        end: Result<&Response, Problem>,
    ) -> io::Result<()> {
        if !self.args.json {
            // What follows must not run into the answer.
            return match heard.text.is_empty() && end.is_err() {
                true => Ok(()),
                false => output::write_text("\n"),
            };
        }
        let completion = end.as_ref().ok().map(|response| response.completion);
        let answer = Answer {
            text: &heard.text,
            finish_reason: completion.map(|completion| completion.reason),
            usage: completion.map(|completion| completion.usage),
            times: Times::new(self.load_seconds, seconds, completion.as_ref()),
            model: &self.model.name,
            adapter: self.model.adapter.as_deref(),
            images,
            notices: &heard.notices,
            monitor: None,
            error: end.err(),
        };
        output::tagged_line("answer", &answer)
    }

    /// Writes the conversation to the file of `--session`, if there is one.
    fn keep(&self) -> Result<(), Error> {
        self.args.session.as_ref().map_or(Ok(()), |path| self.session.save(path))
    }
}
