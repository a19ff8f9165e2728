//! What must be true of a JSON Schema before a grammar is made of it: that it is of a bounded size, and
//! does not multiply into one that is not.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Longest schema, in bytes of JSON.
const MAX_BYTES: usize = 256 << 10;

/// Deepest nesting of a schema.
const MAX_DEPTH: usize = 64;

/// Most bytes that the alternatives of a schema may take when they are multiplied with each other.
const MAX_PRODUCT_BYTES: usize = 256 << 20;

/// Keywords under which there is one schema.
const ONE: [&str; 9] = [
    "items",
    "additionalItems",
    "additionalProperties",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
];

/// Keywords under which there are named schemas.
const NAMED: [&str; 5] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];

/// Checks the size of `schema`; whether its keywords are known is found when a grammar is made of it.
///
/// # Errors
/// What is too large, and how large it may be.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    if schema == &Value::Bool(false) {
        return Err("it is false, which allows no value".to_owned());
    }
    check_depth(schema)?;
    let bytes = schema.to_string().len();
    if bytes > MAX_BYTES {
        return Err(format!("expected at most {MAX_BYTES} bytes of JSON, found {bytes}"));
    }
    if schema.get(OPTIONS).is_some() {
        return Err(format!("the keyword `{OPTIONS}` is not supported"));
    }
    let mut products = Products { root: schema, of_refs: HashMap::new(), most: 1 };
    products.of(schema);
    let most = MAX_PRODUCT_BYTES / bytes.max(1);
    match products.most > most {
        true => Err(format!(
            "allOf, or keywords beside anyOf, oneOf, enum or $ref, multiply into {} alternatives, and \
             a schema of {bytes} bytes may have {most}",
            products.most
        )),
        false => Ok(()),
    }
}

/// A keyword by which a schema could change how grammars are made.
pub(super) const OPTIONS: &str = "x-guidance";

/// Values may be nested deeper than any text of JSON that was read, so this must not call itself.
fn check_depth(schema: &Value) -> Result<(), String> {
    let mut level = vec![schema];
    for _ in 0..MAX_DEPTH {
        let inner = level.iter().flat_map(|value| -> Box<dyn Iterator<Item = &Value>> {
            match value {
                Value::Array(values) => Box::new(values.iter()),
                Value::Object(fields) => Box::new(fields.values()),
                _ => Box::new(std::iter::empty()),
            }
        });
        level = inner.collect();
        if level.is_empty() {
            return Ok(());
        }
    }
    Err(format!("expected at most {MAX_DEPTH} levels, found more"))
}

/// Counts alternatives where schemas are put together: what stands side by side in one schema, or in
/// its `allOf`, multiplies.
struct Products<'a> {
    root: &'a Value,
    /// What each `$ref` leads to; `None` while that is being counted.
    of_refs: HashMap<&'a str, Option<usize>>,
    /// The most alternatives in one place.
    most: usize,
}

impl<'a> Products<'a> {
    /// Returns how many alternatives `schema` has at most, at any place in it.
    fn of(&mut self, schema: &'a Value) -> usize {
        let Value::Object(fields) = schema else { return 1 };
        let mut operands = self.operands(fields);
        let inner = self.inner(fields);
        if inner.is_some() || fields.contains_key("type") {
            operands.push(inner.unwrap_or(1));
        }
        let product = operands.iter().fold(1, |a: usize, &b| a.saturating_mul(b));
        if operands.len() > 1 {
            self.most = self.most.max(product);
        }
        product
    }

    /// Returns the alternatives of all that is put together to one schema.
    fn operands(&mut self, fields: &'a Map<String, Value>) -> Vec<usize> {
        let list = |keyword: &str| fields.get(keyword).and_then(Value::as_array);
        let mut operands = Vec::new();
        for keyword in ["anyOf", "oneOf"] {
            if let Some(schemas) = list(keyword) {
                let sum = schemas.iter().map(|schema| self.of(schema));
                operands.push(sum.fold(0, usize::saturating_add));
            }
        }
        operands.extend(list("enum").map(Vec::len));
        operands.extend(list("type").map(Vec::len));
        operands.extend(list("allOf").into_iter().flatten().map(|schema| self.of(schema)));
        if let Some(to) = fields.get("$ref").and_then(Value::as_str) {
            operands.push(self.of_ref(to));
        }
        operands
    }

    /// Returns the most alternatives of a schema inside of the values that this one describes.
    fn inner(&mut self, fields: &'a Map<String, Value>) -> Option<usize> {
        let mut most = None;
        for (keyword, value) in fields {
            let schemas: Vec<&Value> = match value {
                Value::Object(named) if NAMED.contains(&keyword.as_str()) => {
                    named.values().collect()
                }
                Value::Array(list) if keyword == "prefixItems" || keyword == "items" => {
                    list.iter().collect()
                }
                Value::Object(_) if ONE.contains(&keyword.as_str()) => vec![value],
                _ => continue,
            };
            let of_all = schemas.into_iter().map(|schema| self.of(schema)).max().unwrap_or(1);
            // What is only defined is counted where it is used.
            if !["$defs", "definitions"].contains(&keyword.as_str()) {
                most = most.max(Some(of_all));
            }
        }
        most
    }

    fn of_ref(&mut self, to: &'a str) -> usize {
        if let Some(known) = self.of_refs.get(to) {
            return known.unwrap_or(1);
        }
        let pointer = to.strip_prefix('#');
        let Some(schema) = pointer.and_then(|pointer| self.root.pointer(pointer)) else { return 1 };
        self.of_refs.insert(to, None);
        let alternatives = self.of(schema);
        self.of_refs.insert(to, Some(alternatives));
        alternatives
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn product(schema: &Value) -> usize {
        let mut products = Products { root: schema, of_refs: HashMap::new(), most: 1 };
        products.of(schema);
        products.most
    }

    fn any_of(count: usize) -> Value {
        let kind = |i: usize| json!({"type": "string", "minLength": i});
        json!({"anyOf": (0..count).map(kind).collect::<Vec<_>>()})
    }

    #[test]
    fn what_is_put_together_multiplies() {
        assert_eq!(product(&json!(true)), 1);
        assert_eq!(product(&any_of(9)), 1);
        assert_eq!(product(&json!({"allOf": [any_of(9), any_of(5)]})), 45);
        // Inside of values, too.
        let object = |schema: Value| json!({"type": "object", "properties": {"a": schema}});
        let both = json!({"allOf": [object(any_of(9)), object(any_of(5))]});
        assert_eq!(product(&both), 45);
        // A union of unions is none of their products.
        assert_eq!(product(&object(json!({"anyOf": [any_of(9), object(any_of(5))]}))), 1);
        let refs = json!({
            "$defs": {"a": any_of(7), "loop": {"properties": {"x": {"$ref": "#/$defs/loop"}}}},
            "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}, {"$ref": "#/$defs/loop"}],
        });
        assert_eq!(product(&refs), 49);
        let siblings = json!({"enum": [1, 2, 3], "type": ["integer", "string"]});
        assert_eq!(product(&siblings), 6);
    }

    #[test]
    fn what_is_too_large_is_refused() {
        assert!(check(&json!({"type": "string"})).is_ok());
        assert!(check(&json!(false)).is_err());
        let mut deep = json!({});
        for _ in 0..100_000 {
            // `json!` would call itself for each level.
            deep = Value::Object(Map::from_iter([("items".to_owned(), deep)]));
        }
        assert!(check(&deep).unwrap_err().contains("64 levels"));
        // The value of such depth cannot be dropped by calls, either.
        while let Value::Object(mut fields) = deep {
            deep = fields.remove("items").unwrap_or_default();
        }
        let long = json!({"description": "x".repeat(MAX_BYTES)});
        assert!(check(&long).unwrap_err().contains("bytes of JSON"));
        let many = json!({"allOf": vec![any_of(20); 6]});
        let error = check(&many).unwrap_err();
        assert!(error.contains("multiply into 64000000 alternatives"), "{error}");
        let options = json!({"x-guidance": {"whitespace_pattern": "x"}});
        assert!(check(&options).unwrap_err().contains("`x-guidance`"));
    }
}
