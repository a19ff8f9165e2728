//! Which provider and which model answer, as options and as settings of `create_llm`.

use std::path::PathBuf;

use abstractllm::{
    Config, Error, ErrorKind, Result,
    mlx::{ByteSize, PROVIDER, QuantizationMode, Quantize},
};
use clap::{Args, ValueEnum};

use crate::{
    adapters::AdapterArg,
    args::{bits, one_of},
    kv_args::KvArgs,
};

/// Which model, and how it is loaded.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A folder, a GGUF file, or organisation/model of the Hugging Face hub [default: the embedded
    /// tiny-vl]; of another provider than mlx, the name that it has for a model
    #[arg(short, long, value_name = "NAME")]
    model: Option<String>,
    /// What runs the model: mlx on this machine, or openai (any server that speaks its protocol) or
    /// anthropic
    #[arg(long, value_name = "NAME", default_value = PROVIDER)]
    pub(crate) provider: String,
    /// A setting of the provider, such as `base_url=http://localhost:11434/v1`; may be repeated. Those
    /// that are not given are looked for in the environment and in the file that `ABSTRACTLLM_CONFIG` names
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// A low-rank adapter that changes the model: its folder, by default named as that is, or the name of one
    /// of the setting `adapters`. `serve` answers with it where it is asked for by its name, and takes
    /// several
    #[arg(long = "adapter", value_name = "[NAME=]FOLDER")]
    pub(crate) adapters: Vec<AdapterArg>,
    /// Packs a full checkpoint while loading: 2, 3, 4 (if only --quantize is given), 5, 6 or 8 bits,
    /// mxfp4, mxfp8 or nvfp4
    #[arg(
        long,
        value_name = "BITS|MODE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "4",
        value_parser = packing,
        overrides_with = "no_quantize",
    )]
    quantize: Option<Quantize>,
    /// Loads the checkpoint as it is (default)
    #[arg(long, overrides_with = "quantize")]
    no_quantize: bool,
    /// Weights that share a scale: 32, 64 or 128
    #[arg(long, value_name = "N", value_parser = group_size, requires = "quantize")]
    group_size: Option<i32>,
    /// Most memory that this program may hold, weights included, such as 4GiB [default: what is free]
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<ByteSize>,
    /// What is done about a request that would not fit into memory [default: fit]
    #[arg(long, value_name = "POLICY", value_enum)]
    memory_policy: Option<Policy>,
    /// Never goes to the network
    #[arg(long)]
    offline: bool,
    /// A folder that keeps what was computed of pictures and prompts, at most 10 GiB: the next
    /// question about a picture then costs its own words only. It can be deleted at any time
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Most tokens that are guessed from prompt and answer and read in one step: greedy answers stay the
    /// same, and come quicker where they repeat what was said [default: 0]
    #[arg(long, value_name = "N")]
    prompt_lookup_tokens: Option<usize>,
    #[command(flatten)]
    kv: KvArgs,
}

/// What is done about a request that would not fit into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// Reads the prompt in smaller steps, then makes images smaller, and says so
    Fit,
    /// Ends with an error before anything is computed
    Reject,
}

impl ModelArgs {
    /// Returns what the command line says as settings of the provider.
    ///
    /// # Errors
    /// If an option and --set say the same, or an option is one of the provider mlx and another answers.
    pub(crate) fn settings(&self) -> Result<Config> {
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidRequest, message));
        let mut settings = Config::default();
        for (key, value) in &self.settings {
            if settings.get(key).is_some() {
                return invalid(format!("--set {key}: given twice"));
            }
            settings.set(key, value);
        }
        let model = self.model.iter().map(|name| ("--model", "model", name.clone()));
        for (option, key, value) in model.chain(self.of_mlx()?) {
            if self.provider != PROVIDER && key != "model" {
                return invalid(format!(
                    "{option} is an option of the provider {PROVIDER}; settings of {} are given with --set",
                    self.provider
                ));
            }
            if settings.get(key).is_some() {
                return invalid(format!("{option} and --set {key}: give one of them"));
            }
            settings.set(key, value);
        }
        if !self.adapters.is_empty() {
            if self.provider != PROVIDER {
                return invalid(format!("--adapter is an option of the provider {PROVIDER}"));
            }
            let set = ["adapter", "adapters"].into_iter().find(|key| settings.get(key).is_some());
            if let Some(key) = set {
                return invalid(format!("--adapter and --set {key}: give one of them"));
            }
        }
        Ok(settings)
    }

    /// Returns option, key and value of what is for the provider mlx.
    fn of_mlx(&self) -> Result<Vec<(&'static str, &'static str, String)>> {
        let mut said = Vec::new();
        if let Some(how) = self.quantize {
            let group_size = self.group_size.unwrap_or(how.group_size);
            said.push(("--quantize", "quantize", "true".to_owned()));
            said.push(("--quantize", "quantization_mode", how.mode.to_string()));
            said.push(("--quantize", "bits", how.bits.to_string()));
            said.push(("--group-size", "group_size", group_size.to_string()));
        }
        if self.no_quantize {
            said.push(("--no-quantize", "quantize", "false".to_owned()));
        }
        if let Some(limit) = self.memory_limit {
            said.push(("--memory-limit", "memory_limit", limit.0.to_string()));
        }
        if let Some(policy) = self.memory_policy {
            let policy = match policy {
                Policy::Fit => "fit",
                Policy::Reject => "reject",
            };
            said.push(("--memory-policy", "memory_policy", policy.to_owned()));
        }
        if self.offline {
            said.push(("--offline", "offline", "true".to_owned()));
        }
        if let Some(dir) = &self.cache_dir {
            let text = dir.to_str().ok_or_else(|| {
                let message = format!("--cache-dir: expected Unicode, found {}", dir.display());
                Error::new(ErrorKind::InvalidRequest, message)
            })?;
            said.push(("--cache-dir", "cache_dir", text.to_owned()));
        }
        if let Some(tokens) = self.prompt_lookup_tokens {
            said.push(("--prompt-lookup-tokens", "prompt_lookup_tokens", tokens.to_string()));
        }
        said.extend(self.kv.settings());
        Ok(said)
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    match key.trim() {
        "" => Err("expected KEY=VALUE, found no key".to_owned()),
        key => Ok((key.to_owned(), value.to_owned())),
    }
}

fn packing(text: &str) -> Result<Quantize, String> {
    match text.parse::<QuantizationMode>() {
        Ok(mode) => Ok(mode.into()),
        Err(_) => match bits(text) {
            Ok(bits) => Ok(Quantize { bits, ..Quantize::default() }),
            Err(error) => Err(format!("{error}, mxfp4, mxfp8 or nvfp4")),
        },
    }
}

pub(crate) fn group_size(text: &str) -> Result<i32, String> {
    // 16 is that of nvfp4, which has no other.
    one_of(text, &[16, 32, 64, 128])
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn settings(arguments: &[&str]) -> Result<Config> {
        let all = ["abstractllm", "generate"].iter().chain(arguments);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Generate(args) => args.answer.model.settings(),
            other => panic!("{other:?}"),
        }
    }

    fn refused(arguments: &[&str]) -> String {
        settings(arguments).unwrap_err().to_string()
    }

    #[test]
    fn every_option_is_a_setting() {
        assert_eq!(settings(&[]).unwrap(), Config::default());
        let found = settings(&[
            "--model=m",
            "--quantize=8",
            "--group-size=32",
            "--memory-limit=1.5GiB",
            "--memory-policy=reject",
            "--offline",
            "--cache-dir=/tmp/a b",
            "--prompt-lookup-tokens=3",
            "--kv-bits=4",
            "--kv-group-size=32",
            "--quantized-kv-start=0",
            "--set=max_batch=2",
            "--set",
            "stop==",
        ]);
        let expected = [
            ("model", "m"),
            ("quantize", "true"),
            ("quantization_mode", "affine"),
            ("bits", "8"),
            ("group_size", "32"),
            ("memory_limit", "1610612736"),
            ("memory_policy", "reject"),
            ("offline", "true"),
            ("cache_dir", "/tmp/a b"),
            ("prompt_lookup_tokens", "3"),
            ("kv_bits", "4"),
            ("kv_group_size", "32"),
            ("quantized_kv_start", "0"),
            ("max_batch", "2"),
            ("stop", "="),
        ];
        assert_eq!(found.unwrap(), Config::from(expected));
        assert_eq!(settings(&["--max-kv-size=9"]).unwrap(), Config::from([("max_kv_size", "9")]));
    }

    #[test]
    fn quantize_takes_its_bits_after_an_equals_sign_only() {
        let bits = |arguments: &[&str]| settings(arguments).unwrap().get("bits").map(str::to_owned);
        assert_eq!(bits(&["--quantize"]).as_deref(), Some("4"));
        let floats = settings(&["--quantize=mxfp4"]).unwrap();
        assert_eq!(floats.get("quantization_mode"), Some("mxfp4"));
        let off = Config::from([("quantize", "false")]);
        assert_eq!(settings(&["--quantize=8", "--no-quantize"]).unwrap(), off);
        assert_eq!(bits(&["--no-quantize", "--quantize"]).as_deref(), Some("4"));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        assert_eq!(refused(&["--set=a=1", "--set=a=2"]), "--set a: given twice");
        let twice = refused(&["--model=m", "--set=model=n"]);
        assert_eq!(twice, "--model and --set model: give one of them");
        assert_eq!(
            refused(&["--provider=openai", "--model=m", "--kv-bits=8"]),
            "--kv-bits is an option of the provider mlx; settings of openai are given with --set"
        );
        for (arguments, says) in [
            (&["--memory-limit", "much"][..], "expected a size such as 4GiB"),
            (&["--set", "model"], "expected KEY=VALUE"),
            (&["--set", "=x"], "found no key"),
        ] {
            let all = ["abstractllm", "generate"].iter().chain(arguments);
            let error = Cli::try_parse_from(all).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
