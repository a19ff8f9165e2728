//! The grammars of a model: made once for each form of an answer, from then on copied.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, OnceLock},
};

use llguidance::{
    Matcher, ParserFactory,
    api::{ParserLimits, TopLevelGrammar},
    toktrie::TokEnv,
};
use llm_core::OutputFormat;
use serde_json::{Map, Value, json};

use super::{Grammar, schema, vocabulary::Vocabulary};
use crate::{
    Error, Result,
    caches::{ByteCache, Digest},
    tokenizer::Tokenizer,
};

/// Most bytes of JSON of the schemas whose grammars are kept; a grammar takes several times as much.
const KEPT_BYTES: u64 = 2 << 20;

/// Bytes that a grammar counts beside its schema.
const GRAMMAR_BYTES: u64 = 32 << 10;

/// Bounds of one grammar: some tenths of a second to make it, some hundredths for a step, and at most
/// 100 MB of states.
const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2000,
    initial_lexer_fuel: 1_000_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    max_lexer_states: 50_000,
    max_grammar_size: 500_000,
    precompute_large_lexemes: true,
    verbose_errors: false,
};

/// Makes grammars for the answers of one model.
pub(crate) struct Grammars {
    tokenizer: Arc<Tokenizer>,
    stop_tokens: Arc<BTreeSet<u32>>,
    /// Knows all tokens; made by the first request that has a form.
    factory: OnceLock<Result<ParserFactory, String>>,
    /// Grammars as they were made: each answer has a copy, and the states that it finds for itself.
    kept: ByteCache<Arc<Matcher>>,
}

impl Grammars {
    /// Returns the grammars of a model with `tokenizer`, whose answers `stop_tokens` end.
    pub(crate) fn new(tokenizer: Arc<Tokenizer>, stop_tokens: Arc<BTreeSet<u32>>) -> Self {
        let kept = ByteCache::new(KEPT_BYTES, Arc::default());
        Self { tokenizer, stop_tokens, factory: OnceLock::new(), kept }
    }

    /// Whether answers can be held to a form.
    pub(crate) fn can_hold(&self) -> bool {
        Vocabulary::suits(&self.tokenizer, &self.stop_tokens)
    }

    /// Returns the grammar of `output`; none if any text will do.
    ///
    /// # Errors
    /// [`Error::Output`] if answers cannot be held to it.
    pub(crate) fn of(&self, output: &OutputFormat) -> Result<Option<Grammar>> {
        match output {
            OutputFormat::Text => Ok(None),
            // What services call JSON is an object, and of an object the end can be seen.
            OutputFormat::Json => self.of_schema(&json!({"type": "object"})).map(Some),
            OutputFormat::JsonSchema { name, schema } => {
                let named = |reason: String| format!("schema `{name}`: {reason}");
                schema::check(schema).map_err(named).map_err(Error::Output)?;
                self.of_schema(schema).map(Some).map_err(|error| match error {
                    Error::Output(reason) => Error::Output(named(reason)),
                    other => other,
                })
            }
            other => Err(Error::Output(format!("{other:?} is not supported"))),
        }
    }

    fn of_schema(&self, schema: &Value) -> Result<Grammar> {
        let text = schema.to_string();
        let key = Digest::of("json schema", &[text.as_bytes()]);
        if let Some(fresh) = self.kept.get(&key) {
            return Grammar::new(fresh.deep_clone());
        }
        let fresh = self.compile(TopLevelGrammar::from_json_schema(written_as(schema)))?;
        self.kept.insert(key, fresh.clone(), text.len() as u64 + GRAMMAR_BYTES);
        Grammar::new(fresh.deep_clone())
    }

    fn compile(&self, grammar: TopLevelGrammar) -> Result<Arc<Matcher>> {
        let factory = self.factory.get_or_init(|| factory(&self.tokenizer, &self.stop_tokens));
        let factory = factory.as_ref().map_err(|reason| Error::Tokenizer(reason.clone()))?;
        let parser = factory.create_parser(grammar).map_err(|e| Error::Output(one_line(&e)))?;
        Ok(Arc::new(Matcher::new(Ok(parser))))
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").field("kept", &self.kept).finish_non_exhaustive()
    }
}

fn factory(
    tokenizer: &Arc<Tokenizer>,
    stop_tokens: &BTreeSet<u32>,
) -> Result<ParserFactory, String> {
    let vocabulary: TokEnv = Arc::new(Vocabulary::new(tokenizer.clone(), stop_tokens)?);
    let mut factory = ParserFactory::new_simple(&vocabulary).map_err(|e| one_line(&e))?;
    factory.quiet();
    *factory.limits_mut() = LIMITS;
    Ok(factory)
}

/// Returns `schema` with how its values are to be written: on one line, as Python's `json.dumps` does
/// and models have read most. Free white space would let a model that is at a loss write it for ever.
fn written_as(schema: &Value) -> Value {
    let mut fields = match schema {
        Value::Object(fields) => fields.clone(),
        _ => Map::new(),
    };
    let options = json!({
        "whitespace_flexible": false,
        "item_separator": ", ",
        "key_separator": ": ",
    });
    fields.insert(schema::OPTIONS.to_owned(), options);
    Value::Object(fields)
}

/// Returns what an error of llguidance says first; states and grammars may follow.
fn one_line(error: &dyn fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
