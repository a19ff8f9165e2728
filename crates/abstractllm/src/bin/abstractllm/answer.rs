//! The commands `describe` and `generate`.

use std::{ffi::OsString, path::Path, time::Instant};

use abstractllm::{
    Completion, Error, ErrorKind, Event, FinishReason, Message, Notice, Part, Request,
    perf::{MonitorOptions, PerformanceMonitor},
    vision::Limits,
};
use futures_executor::block_on;

use crate::{
    args::{AnswerArgs, DescribeArgs, GenerateArgs, VideoArgs},
    failure::{Failure, say},
    images::{self, Source, Summary},
    interrupt::{Interrupts, Next},
    load::{Loaded, Wanted},
    output::{Answer, Problem, Style, Times},
    progress::Bars,
    prompt, report, videos,
};

pub(crate) fn describe(args: DescribeArgs, quiet: bool) -> Result<(), Failure> {
    let default = || match args.images.len() {
        0 => "Describe this video.".to_owned(),
        1 => "Describe this image.".to_owned(),
        _ => "Compare these images.".to_owned(),
    };
    let prompt = args.prompt.clone().unwrap_or_else(default);
    answer("describe", prompt, (&args.images, &args.videos), &args.answer, quiet)
}

pub(crate) fn generate(args: GenerateArgs, quiet: bool) -> Result<(), Failure> {
    let prompt = prompt::given_or_piped(args.prompt)?;
    answer("generate", prompt, (&args.images, &args.videos), &args.answer, quiet)
}

fn answer(
    command: &str,
    prompt: String,
    (images, videos): (&[OsString], &VideoArgs),
    args: &AnswerArgs,
    quiet: bool,
) -> Result<(), Failure> {
    // Cheap errors first: loading a model can take minutes.
    let params = args.params();
    params.validate()?;
    args.report.as_deref().map_or(Ok(()), report::check_target)?;
    let wanted = Wanted::of(&args.model)?.answered_by_adapter()?;
    let limits = Limits::default();
    let sources: Vec<Source> =
        images.iter().map(|image| images::open(image, &limits)).collect::<Result<_, _>>()?;
    let videos = videos::open(videos, &limits)?;
    let images = sources.into_iter().map(|source| (Part::Image(source.image), source.summary));
    let videos = videos.into_iter().map(|(video, summary)| (Part::Video(video), summary));
    let (mut parts, summaries): (Vec<_>, Vec<_>) = images.chain(videos).unzip();
    parts.push(Part::Text(prompt));
    let request = Request::new([Message::user(parts)]).with_params(params);

    let interrupts = Interrupts::listen()
        .map_err(|e| Error::new(ErrorKind::Internal, "cannot listen for Ctrl-C").with_source(e))?;
    let bars = Bars::new(quiet);
    let measured = args.monitor || args.report.is_some();
    let monitor = measured.then(|| PerformanceMonitor::new(MonitorOptions::default()));

    let started = Instant::now();
    let operation = monitor.as_ref().map(|monitor| monitor.monitor("load"));
    let model = wanted.load(limits, monitor.as_ref(), &bars, quiet);
    drop(operation);
    let model = model?;
    let session = Session {
        style: Style::of(args),
        bars,
        interrupts,
        model: &model,
        images: &summaries,
        load_seconds: started.elapsed().as_secs_f64(),
        shows_report: args.monitor,
        report_file: args.report.as_deref(),
        quiet,
    };
    let done = session.run(command, request, monitor.as_ref());
    model.flush();
    done
}

/// Everything that one answer is printed with.
struct Session<'a> {
    style: Style,
    bars: Bars,
    interrupts: Interrupts,
    model: &'a Loaded,
    images: &'a [Summary],
    load_seconds: f64,
    shows_report: bool,
    report_file: Option<&'a Path>,
    quiet: bool,
}

/// How an answer ended.
enum End {
    Complete(Completion),
    Failed(Error),
    Interrupted,
}

impl Session<'_> {
    fn run(
        &self,
        command: &str,
        request: Request,
        monitor: Option<&PerformanceMonitor>,
    ) -> Result<(), Failure> {
        let max_tokens = request.params.max_tokens.unwrap_or(self.model.max_tokens);
        let started = Instant::now();
        let operation = monitor.map(|monitor| monitor.monitor(command));
        let (mut text, mut notices) = (String::new(), Vec::new());
        let end = self.read(request, &mut text, &mut notices)?;
        drop(operation);
        self.bars.clear();

        let completion = match &end {
            End::Complete(completion) => Some(completion),
            End::Failed(_) | End::Interrupted => None,
        };
        let report = monitor.map(|monitor| monitor.report());
        let answer_seconds = started.elapsed().as_secs_f64();
        self.style.end(&Answer {
            text: &text,
            finish_reason: completion.map(|completion| completion.reason),
            usage: completion.map(|completion| completion.usage),
            times: Times::new(self.load_seconds, answer_seconds, completion),
            model: &self.model.name,
            adapter: self.model.adapter.as_deref(),
            images: self.images,
            notices: &notices,
            monitor: report.as_ref().filter(|_| self.shows_report),
            error: match &end {
                End::Complete(_) => None,
                End::Failed(error) => Some(Problem::from(error)),
                End::Interrupted => Some(Problem::new(ErrorKind::Cancelled, "interrupted")),
            },
        })?;
        if let Some(report) = report.as_ref().filter(|_| self.shows_report) {
            self.style.report(report);
        }
        let written = match (&report, self.report_file) {
            (Some(report), Some(path)) => report::write(path, &report.to_json()),
            _ => Ok(()),
        };
        match end {
            End::Complete(completion) => {
                if completion.reason == FinishReason::Length && !self.quiet {
                    say(&length_note(max_tokens, completion.usage.completion_tokens));
                }
                Ok(written?)
            }
            End::Failed(error) => Err(error.into()),
            End::Interrupted => Err(Failure::Interrupted),
        }
    }

    /// Prints the answer as it comes and gathers it in `text` and `notices`.
    fn read(
        &self,
        request: Request,
        text: &mut String,
        notices: &mut Vec<Notice>,
    ) -> Result<End, Failure> {
        self.interrupts.begin_answer();
        let mut stream = match block_on(self.model.provider.generate_stream(request)) {
            Ok(stream) => stream,
            Err(error) => return Ok(End::Failed(error)),
        };
        while let Some(next) = self.interrupts.next(&mut stream) {
            match next {
                Next::Event(Ok(Event::Progress(progress))) => {
                    self.bars.step(progress);
                    self.style.progress(progress)?;
                }
                Next::Event(Ok(Event::Notice(notice))) => {
                    self.bars.clear();
                    if !self.quiet {
                        say(&format!("note: {notice}"));
                    }
                    self.style.notice(&notice)?;
                    notices.push(notice);
                }
                Next::Event(Ok(Event::Text(piece))) => {
                    self.bars.clear();
                    text.push_str(&piece);
                    self.style.text(&piece)?;
                }
                Next::Event(Ok(Event::End(completion))) => return Ok(End::Complete(completion)),
                // A later version may have events that need not be shown.
                Next::Event(Ok(_)) => {}
                Next::Event(Err(error)) => return Ok(End::Failed(error)),
                Next::Interrupted => return Ok(End::Interrupted),
            }
        }
        Ok(End::Failed(Error::new(ErrorKind::Internal, "the answer has no end")))
    }
}

/// Says which of the two limits ended an answer.
pub(crate) fn length_note(max_tokens: u32, made: usize) -> String {
    match made < max_tokens as usize {
        true => {
            format!("note: the answer stops here: the model's context is full ({made} new tokens)")
        }
        false => format!("note: the answer stops here: --max-tokens is {max_tokens}"),
    }
}
