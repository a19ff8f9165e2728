//! What can be said on the command line.

use std::{ffi::OsString, path::PathBuf};

use abstractllm::{
    GenerateParams, VideoSampling,
    mlx::{ByteSize, QuantizationMode, Quantize, Recipe, Rule},
};
use clap::{ArgAction, Args, Parser, Subcommand};

use crate::{
    chat::args::ChatArgs,
    completions::CompletionsArgs,
    man::ManArgs,
    model_args::{ModelArgs, group_size},
    models::ModelsArgs,
    report_args::ReportArgs,
    serve_args::ServeArgs,
};

const EXAMPLES: &str = "\
Examples:
  abstractllm describe picture.png
  abstractllm describe before.jpg after.jpg --model mlx-community/Qwen2.5-VL-3B-Instruct-4bit
  abstractllm generate --image sign.jpg --prompt 'What does the sign say?' --json
  abstractllm describe picture.png --provider openai --model gpt-5-mini
  echo 'Who are you?' | abstractllm generate
  abstractllm check-image photo.jpg
  abstractllm serve
  abstractllm system-check";

/// Describes images and answers questions about them with a vision-language model on this machine
#[derive(Debug, Parser)]
#[command(name = "abstractllm", version, after_help = EXAMPLES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Says more on stderr: -v what is done, -vv how; the variable `RUST_LOG` selects finer
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Says nothing on stderr but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Describe(DescribeArgs),
    Generate(GenerateArgs),
    Chat(ChatArgs),
    CheckImage(CheckImageArgs),
    SystemCheck(SystemCheckArgs),
    Models(ModelsArgs),
    Quantize(QuantizeArgs),
    Report(ReportArgs),
    Serve(ServeArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

const DESCRIBE_EXAMPLES: &str = "\
Examples:
  abstractllm describe picture.png
  abstractllm describe a.png b.png --monitor
  abstractllm describe photo.jpg --prompt 'How many people are there?' --max-tokens 32 --json";

/// Describes an image, or compares several
#[derive(Debug, Args)]
#[command(after_help = DESCRIBE_EXAMPLES)]
pub(crate) struct DescribeArgs {
    /// Image files (JPEG, PNG, WebP, GIF or BMP) or data: URLs
    #[arg(required_unless_present = "videos", value_name = "IMAGE")]
    pub(crate) images: Vec<OsString>,
    #[command(flatten)]
    pub(crate) videos: VideoArgs,
    /// What to ask [default: "Describe this image.", of several "Compare these images."]
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) answer: AnswerArgs,
}

const GENERATE_EXAMPLES: &str = "\
Examples:
  abstractllm generate --image sign.jpg --prompt 'What does the sign say?'
  abstractllm generate --system 'Answer in one word.' --prompt 'What colour is the sky?'
  cat question.txt | abstractllm generate --image chart.png --stream --json";

/// Answers a prompt, with or without images
#[derive(Debug, Args)]
#[command(after_help = GENERATE_EXAMPLES)]
pub(crate) struct GenerateArgs {
    /// What to ask; read from stdin where this is not given
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// An image file or data: URL; may be repeated
    #[arg(short, long = "image", value_name = "IMAGE")]
    pub(crate) images: Vec<OsString>,
    #[command(flatten)]
    pub(crate) videos: VideoArgs,
    #[command(flatten)]
    pub(crate) answer: AnswerArgs,
}

/// What `describe` and `generate` share.
#[derive(Debug, Args)]
pub(crate) struct AnswerArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) budget: BudgetArgs,
    /// Prints the answer while it is made (default); with --json one JSON object a line
    #[arg(long, overrides_with = "no_stream", help_heading = "Output")]
    pub(crate) stream: bool,
    /// Prints the answer when it is complete
    #[arg(long, overrides_with = "stream", help_heading = "Output")]
    pub(crate) no_stream: bool,
    /// Reports time, memory and speed after the answer, on stderr or in the JSON
    #[arg(long, help_heading = "Output")]
    pub(crate) monitor: bool,
    /// Writes what was measured to a file, as JSON: see `report`; an older file is replaced
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) report: Option<PathBuf>,
    /// Prints one JSON object: text, finish reason, usage, times, model and images
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// How the answer is chosen.
#[derive(Debug, Args)]
#[command(next_help_heading = "Answer")]
pub(crate) struct SamplingArgs {
    /// What the model is told before everything else
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Most new tokens [default: 512]
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// Randomness from 0 (always the likeliest token) to 2 [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,
    /// Keeps the likeliest tokens that together reach this probability [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Keeps this many of the likeliest tokens; 0 keeps all [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) top_k: Option<u32>,
    /// Drops tokens less likely than this times the likeliest [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Above 1 makes tokens already seen less likely [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f32>,
    /// From -2 to 2: makes a token less likely each time it is generated [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// From -2 to 2: makes a token less likely once it was generated [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// A text that ends the answer and is left out of it; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Makes a random answer repeatable
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

/// Videos, and which of their frames are looked at.
#[derive(Debug, Args)]
#[command(next_help_heading = "Videos")]
pub(crate) struct VideoArgs {
    /// A video file (GIF or WebP; MP4 with H.264 in builds that have it) or data: URL; may be repeated
    #[arg(long = "video", value_name = "VIDEO")]
    pub(crate) videos: Vec<OsString>,
    /// Frames that are looked at for each second of a video [default: the model's own, mostly 2]
    #[arg(long, value_name = "N")]
    pub(crate) fps: Option<f64>,
    /// Most frames of a video that are looked at [default: the model's own, mostly 768]
    #[arg(long, value_name = "N")]
    pub(crate) max_frames: Option<u32>,
}

impl VideoArgs {
    pub(crate) fn sampling(&self) -> VideoSampling {
        // Fewer than a model has as its fewest are fewer.
        let min_frames = self.max_frames.filter(|&most| most < 4);
        let Self { fps, max_frames, .. } = *self;
        VideoSampling { fps, min_frames, max_frames, ..VideoSampling::default() }
    }
}

/// How large images may be for the model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Images")]
pub(crate) struct BudgetArgs {
    /// Fewest pixels of an image after resizing [default: the model's own]
    #[arg(long, value_name = "N")]
    pub(crate) min_pixels: Option<u64>,
    /// Most pixels of an image after resizing [default: the model's own]
    #[arg(long, value_name = "N")]
    pub(crate) max_pixels: Option<u64>,
}

impl AnswerArgs {
    pub(crate) fn params(&self) -> GenerateParams {
        params(&self.sampling, &self.budget)
    }
}

/// Returns the parameters that the command line sets.
pub(crate) fn params(of: &SamplingArgs, budget: &BudgetArgs) -> GenerateParams {
    GenerateParams {
        temperature: of.temperature,
        top_p: of.top_p,
        top_k: of.top_k,
        min_p: of.min_p,
        repetition_penalty: of.repetition_penalty,
        frequency_penalty: of.frequency_penalty,
        presence_penalty: of.presence_penalty,
        max_tokens: of.max_tokens,
        stop: of.stop.clone(),
        seed: of.seed,
        system: of.system.clone(),
        min_pixels: budget.min_pixels,
        max_pixels: budget.max_pixels,
        ..GenerateParams::default()
    }
}

const CHECK_IMAGE_EXAMPLES: &str = "\
Examples:
  abstractllm check-image photo.jpg
  abstractllm check-image photo.jpg --model tiny-vl --memory-limit 1GiB
  abstractllm check-image *.png --model ./Qwen2.5-VL-3B-Instruct-4bit --max-pixels 1003520 --json";

/// Says what images would cost: size, patches, tokens and bytes; loads no model
#[derive(Debug, Args)]
#[command(after_help = CHECK_IMAGE_EXAMPLES)]
pub(crate) struct CheckImageArgs {
    /// Image files or data: URLs
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<OsString>,
    /// tiny-vl or the folder of a model [default: Qwen2.5-VL as published]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Most memory that a request may take, such as 4GiB [default: what is free]
    #[arg(long, value_name = "SIZE", requires = "model")]
    pub(crate) memory_limit: Option<ByteSize>,
    #[command(flatten)]
    pub(crate) budget: BudgetArgs,
    /// Prints one JSON object
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// Checks this machine: processor, memory, MLX, caches and the embedded model
#[derive(Debug, Args)]
pub(crate) struct SystemCheckArgs {
    /// Prints one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

const QUANTIZE_EXAMPLES: &str = "\
Examples:
  abstractllm quantize ./Qwen2.5-VL-3B-Instruct ./Qwen2.5-VL-3B-Instruct-4bit
  abstractllm quantize tiny-vl ./tiny-vl-8bit --bits 8 --group-size 32
  abstractllm quantize tiny-vl ./tiny-vl-mxfp4 --mode mxfp4
  abstractllm quantize tiny-vl ./tiny-vl-mixed --recipe mixed_3_6
  abstractllm quantize tiny-vl ./tiny-vl-own --rule '*.v_proj=8' --rule '*.layers.0.*=full'";

/// Writes a quantised copy of a full checkpoint, which loads faster and takes less memory
#[derive(Debug, Args)]
#[command(after_help = QUANTIZE_EXAMPLES)]
pub(crate) struct QuantizeArgs {
    /// The folder of a full checkpoint, or tiny-vl
    #[arg(value_name = "SOURCE")]
    pub(crate) source: PathBuf,
    /// The folder to write, which must not exist
    #[arg(value_name = "TARGET")]
    pub(crate) target: PathBuf,
    /// What a packed weight means: affine, mxfp4, mxfp8 or nvfp4 [default: affine]
    #[arg(long, value_name = "MODE")]
    pub(crate) mode: Option<QuantizationMode>,
    /// Bits of a weight: 2, 3, 4, 5, 6 or 8 in the mode affine [default: 4]
    #[arg(long, value_name = "BITS", value_parser = bits)]
    pub(crate) bits: Option<i32>,
    /// Weights that share a scale: 32, 64 or 128 in the mode affine [default: 64]
    #[arg(long, value_name = "N", value_parser = group_size)]
    pub(crate) group_size: Option<i32>,
    #[arg(
        long,
        value_name = "NAME",
        help = format!("More bits where it counts: {}", Recipe::MIXED.join(", ")),
        value_parser = Recipe::mixed,
        conflicts_with_all = ["mode", "bits", "group_size"],
    )]
    pub(crate) recipe: Option<Recipe>,
    /// Packs the layers whose path matches PATTERN (with * for any text) differently: WHAT is BITS,
    /// BITS/GROUP, a mode, or full for not at all; may be repeated, the first that matches counts
    #[arg(long = "rule", value_name = "PATTERN=WHAT")]
    pub(crate) rules: Vec<Rule>,
    /// Prints one JSON object
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

impl QuantizeArgs {
    /// Returns how each layer is packed.
    ///
    /// # Errors
    /// If MLX has no kernels for it.
    pub(crate) fn recipe(&self) -> Result<Recipe, String> {
        let usual = Quantize::from(self.mode.unwrap_or_default());
        let uniform = Quantize {
            bits: self.bits.unwrap_or(usual.bits),
            group_size: self.group_size.unwrap_or(usual.group_size),
            ..usual
        };
        uniform.validate()?;
        let base = self.recipe.clone().unwrap_or_else(|| uniform.into());
        Ok(base.with_rules(self.rules.iter().cloned()))
    }
}

pub(crate) fn bits(text: &str) -> Result<i32, String> {
    one_of(text, &Quantize::BITS)
}

pub(crate) fn one_of(text: &str, allowed: &[i32]) -> Result<i32, String> {
    let list = || allowed.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
    let number = text.parse().ok().filter(|number| allowed.contains(number));
    number.ok_or_else(|| format!("expected one of {}", list()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn answer(arguments: &[&str]) -> AnswerArgs {
        let all = ["abstractllm", "generate"].iter().chain(arguments);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Generate(args) => args.answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_image_after_quantize_is_an_image() {
        let all = ["abstractllm", "describe", "--quantize", "a.png"];
        let Command::Describe(args) = Cli::try_parse_from(all).unwrap().command else { panic!() };
        assert_eq!(args.images, ["a.png"]);
    }

    #[test]
    fn every_parameter_arrives() {
        let found = answer(&[
            "--system=s",
            "--max-tokens=1",
            "--temperature=0.5",
            "--top-p=0.9",
            "--top-k=3",
            "--min-p=0.1",
            "--repetition-penalty=1.5",
            "--frequency-penalty",
            "-2",
            "--presence-penalty",
            "-0.5",
            "--stop=a",
            "--stop=b",
            "--seed=7",
            "--min-pixels=10",
            "--max-pixels=20",
        ]);
        let expected = GenerateParams {
            temperature: Some(0.5),
            top_p: Some(0.9),
            top_k: Some(3),
            min_p: Some(0.1),
            repetition_penalty: Some(1.5),
            frequency_penalty: Some(-2.0),
            presence_penalty: Some(-0.5),
            max_tokens: Some(1),
            stop: vec!["a".into(), "b".into()],
            seed: Some(7),
            system: Some("s".into()),
            min_pixels: Some(10),
            max_pixels: Some(20),
            ..GenerateParams::default()
        };
        assert_eq!(found.params(), expected);
    }
}
