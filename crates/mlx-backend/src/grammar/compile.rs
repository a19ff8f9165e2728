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
use llm_core::{OutputFormat, Request, Tool, ToolChoice};
use serde_json::{Map, Value, json};

use super::{Grammar, calls, schema, vocabulary::Vocabulary};
use crate::{
    Error, Result,
    caches::{ByteCache, Digest},
    calls::{CLOSE, OPEN},
    tokenizer::Tokenizer,
};

/// Most bytes of JSON of the schemas whose grammars are kept; a grammar takes several times as much.
const KEPT_BYTES: u64 = 2 << 20;

/// Most calls in an answer that must call: a model at a loss would go on for ever.
const MOST_CALLS: usize = 16;

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

    /// Whether calls of tools can be seen in the text of an answer.
    pub(crate) fn shows_calls(&self) -> bool {
        [OPEN, CLOSE].iter().all(|mark| self.tokenizer.says(mark))
    }

    /// Returns the grammar of answers to `request`; none if any text will do.
    ///
    /// # Errors
    /// [`Error::Output`] if answers cannot be held to it.
    pub(crate) fn of(&self, request: &Request) -> Result<Option<Grammar>> {
        let schema = schema_of(&request.output)?;
        let all = || request.tools.iter().collect::<Vec<_>>();
        match (&request.tool_choice, schema) {
            (ToolChoice::Required, _) => self.of_calls(&all(), MOST_CALLS, None).map(Some),
            (ToolChoice::Named(name), _) => {
                let tools: Vec<&Tool> = all().into_iter().filter(|t| t.name == *name).collect();
                self.of_calls(&tools, 1, None).map(Some)
            }
            (ToolChoice::Auto, Some(schema)) if !request.tools.is_empty() => {
                self.of_calls(&all(), MOST_CALLS, Some(&schema)).map(Some)
            }
            (_, Some(schema)) => {
                let grammar = self.of_schema(&schema);
                grammar.map(Some).map_err(|error| named(&request.output, error))
            }
            (_, None) => Ok(None),
        }
    }

    /// Returns the grammar of 1 to `most` calls of `tools`; or of a value of the schema `document`.
    fn of_calls(&self, tools: &[&Tool], most: usize, document: Option<&Value>) -> Result<Grammar> {
        let of_tool = |tool: &Tool, reason: String| {
            Error::Output(format!("tool `{}`: parameters: {reason}", tool.name))
        };
        for tool in tools {
            schema::check(&tool.parameters).map_err(|reason| of_tool(tool, reason))?;
        }
        let lark = calls::grammar(tools, most, document, &self.tokenizer);
        let made = self.get("calls", &lark, || TopLevelGrammar::from_lark(lark.clone()));
        let Err(Error::Output(reason)) = made else { return made };
        // Which of them was it?
        for tool in tools {
            if let Err(Error::Output(reason)) = self.of_schema(&tool.parameters) {
                return Err(of_tool(tool, reason));
            }
        }
        Err(Error::Output(reason))
    }

    fn of_schema(&self, schema: &Value) -> Result<Grammar> {
        self.get("json schema", &schema.to_string(), || {
            TopLevelGrammar::from_json_schema(written_as(schema))
        })
    }

    /// Returns a copy of the grammar that `text` stands for; `make` makes it, if need be.
    fn get(
        &self,
        kind: &str,
        text: &str,
        make: impl FnOnce() -> TopLevelGrammar,
    ) -> Result<Grammar> {
        let key = Digest::of(kind, &[text.as_bytes()]);
        if let Some(fresh) = self.kept.get(&key) {
            return Grammar::new(fresh.deep_clone());
        }
        let fresh = self.compile(make())?;
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

/// Returns the schema that values of the form `output` follow, if it has one.
fn schema_of(output: &OutputFormat) -> Result<Option<Value>> {
    match output {
        OutputFormat::Text => Ok(None),
        // What services call JSON is an object, and of an object the end can be seen.
        OutputFormat::Json => Ok(Some(json!({"type": "object"}))),
        OutputFormat::JsonSchema { schema, .. } => {
            let checked = schema::check(schema).map_err(Error::Output);
            checked.map(|()| Some(schema.clone())).map_err(|error| named(output, error))
        }
        other => Err(Error::Output(format!("{other:?} is not supported"))),
    }
}

/// Returns `error` with the name of the schema that it is about.
fn named(output: &OutputFormat, error: Error) -> Error {
    match (output, error) {
        (OutputFormat::JsonSchema { name, .. }, Error::Output(reason)) => {
            Error::Output(format!("schema `{name}`: {reason}"))
        }
        (_, error) => error,
    }
}

/// Returns `schema` with how its values are to be written: on one line, as Python's `json.dumps` does
/// and models have read most. Free white space would let a model that is at a loss write it for ever.
pub(super) fn written_as(schema: &Value) -> Value {
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
