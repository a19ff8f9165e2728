//! Functions that a model may call.

use std::{collections::BTreeMap, fmt, future::Future, pin::Pin, sync::Arc, thread};

use futures_util::future::join_all;
use llm_core::{Tool, ToolCall, ToolResult};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

type Outcome = Result<String, String>;
type Run = dyn Fn(Value) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync;

/// Functions that a model may call, by name.
#[derive(Clone, Default)]
pub struct Toolbox(BTreeMap<String, (Tool, Arc<Run>)>);

impl fmt::Debug for Toolbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Toolbox {
    /// Adds a function, in place of one of that name. Its argument is a struct; the JSON Schema that
    /// the model reads is made of it and of the comments of its fields.
    ///
    /// It runs on a thread of its own, so it may block, and calls of one answer run side by side.
    /// An `Err` is told to the model, and so is a panic.
    pub fn add<A, R, E>(
        &mut self,
        name: impl Into<String>,
        description: impl Into<String>,
        function: impl Fn(A) -> Result<R, E> + Send + Sync + 'static,
    ) -> &mut Self
    where
        A: JsonSchema + DeserializeOwned + Send + 'static,
        R: Serialize,
        E: fmt::Display,
    {
        let function = Arc::new(function);
        let tool = Tool::new(name, description, schema::<A>());
        self.add_raw(tool, move |arguments| {
            let function = function.clone();
            async move {
                let arguments = read::<A>(arguments)?;
                on_a_thread(move || written(function(arguments))).await
            }
        })
    }

    /// As [`add`](Self::add), for a function that does not block; all calls of one answer are
    /// polled together.
    pub fn add_async<A, R, E, F>(
        &mut self,
        name: impl Into<String>,
        description: impl Into<String>,
        function: impl Fn(A) -> F + Send + Sync + 'static,
    ) -> &mut Self
    where
        A: JsonSchema + DeserializeOwned + Send + 'static,
        R: Serialize,
        E: fmt::Display,
        F: Future<Output = Result<R, E>> + Send + 'static,
    {
        let function = Arc::new(function);
        let tool = Tool::new(name, description, schema::<A>());
        self.add_raw(tool, move |arguments| {
            let function = function.clone();
            async move { written(function(read::<A>(arguments)?).await) }
        })
    }

    /// Adds `tool`, in place of one of that name, whose schema is written by hand; `run` gets what
    /// the model wrote, which need not follow the schema.
    pub fn add_raw<F>(
        &mut self,
        tool: Tool,
        run: impl Fn(Value) -> F + Send + Sync + 'static,
    ) -> &mut Self
    where
        F: Future<Output = Result<String, String>> + Send + 'static,
    {
        let run: Arc<Run> = Arc::new(move |arguments| Box::pin(run(arguments)));
        self.0.insert(tool.name.clone(), (tool, run));
        self
    }

    /// Takes out the function `name`; returns whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    /// Returns what the model is told of the functions, by name.
    #[must_use]
    pub fn definitions(&self) -> Vec<Tool> {
        self.0.values().map(|(tool, _)| tool.clone()).collect()
    }

    /// Runs `calls` side by side and returns a result for each, in their order. Whatever goes wrong
    /// is a result, for the model to read.
    pub async fn run(&self, calls: &[ToolCall]) -> Vec<ToolResult> {
        join_all(calls.iter().map(|call| async move {
            match self.call(call).await {
                Ok(content) => ToolResult::new(&call.id, content),
                Err(reason) => ToolResult::error(&call.id, reason),
            }
        }))
        .await
    }

    async fn call(&self, call: &ToolCall) -> Outcome {
        let Some((_, run)) = self.0.get(&call.name) else {
            let known: Vec<_> = self.0.keys().map(|name| format!("`{name}`")).collect();
            return Err(format!("there is no tool `{}`; there is {}", call.name, known.join(", ")));
        };
        run(call.arguments.clone()).await
    }
}

/// Returns the JSON Schema of `A`, without what only describes schemas.
fn schema<A: JsonSchema>() -> Value {
    let mut fields = match schemars::schema_for!(A).to_value() {
        Value::Object(fields) => fields,
        // Anything goes.
        _ => Map::new(),
    };
    fields.remove("$schema");
    fields.remove("title");
    fields.entry("type").or_insert_with(|| "object".into());
    Value::Object(fields)
}

fn read<A: DeserializeOwned>(arguments: Value) -> Result<A, String> {
    serde_json::from_value(arguments).map_err(|e| format!("the arguments are not as asked: {e}"))
}

/// A text is told as it is, everything else as JSON.
fn written<R: Serialize, E: fmt::Display>(result: Result<R, E>) -> Outcome {
    let value = result.map_err(|e| e.to_string())?;
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => Ok(text),
        Ok(value) => Ok(value.to_string()),
        Err(error) => Err(format!("the result is no JSON: {error}")),
    }
}

async fn on_a_thread(work: impl FnOnce() -> Outcome + Send + 'static) -> Outcome {
    let (reply, answer) = oneshot::channel();
    let spawned = thread::Builder::new().name("tool".to_owned()).spawn(move || {
        // Nobody waits if the question was dropped.
        let _ = reply.send(work());
    });
    spawned.map_err(|e| format!("cannot start a thread: {e}"))?;
    answer.await.unwrap_or_else(|_| Err("the tool panicked".to_owned()))
}
