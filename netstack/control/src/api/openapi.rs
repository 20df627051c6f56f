//! The OpenAPI 3.1 description, made from the list of endpoints, the schemas of answers (`schemas.json`) and the table of
//! the configuration.

use super::{
    JSON, Reply,
    dispatch::Request,
    endpoints::{ENDPOINTS, Endpoint, Handler},
    problem::PROBLEM_JSON,
    query::{Kind, Param},
    text,
};
use crate::http::{head::Method, reply::reason};
use crate::node::Node;
use alloc::{format, string::ToString, vec::Vec};
use serde_json::{Map, Value, json};

/// `GET /openapi.json`.
pub(super) fn get(node: &mut Node, _: &Request) -> Reply {
    let Node { platform, description, .. } = node;
    let description = description.get_or_insert_with(|| text(&describe(platform.version())));
    Reply::new(200, JSON, description.clone())
}

/// The description.
pub(super) fn describe(version: &str) -> Value {
    let mut paths = Map::new();
    for endpoint in ENDPOINTS {
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        if endpoint.method == Method::Get {
            path["head"] = head_operation(endpoint);
        }
        path[endpoint.method.to_string().to_ascii_lowercase()] = operation(endpoint);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Fairlead management API",
            "version": version,
            "license": {"name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas(),
        },
    })
}

/// Schemas by name.
pub(super) fn schemas() -> Value {
    let mut schemas: Value = serde_json::from_str(include_str!("schemas.json")).unwrap_or_default();
    schemas["Config"] = config::table::CONFIG.to_json_schema();
    schemas["IpsecAssociation"] = config::table::association().to_json_schema();
    schemas["ConfigRoute"] = config::table::route().to_json_schema();
    schemas
}

fn operation(endpoint: &Endpoint) -> Value {
    let mut operation = json!({
        "summary": endpoint.summary,
        "operationId": operation_id(endpoint),
        "responses": responses(endpoint),
    });
    let mut parameters: Vec<Value> = endpoint.query.iter().map(parameter).collect();
    if endpoint.refusals.contains(&412) {
        parameters.push(json!({
            "name": "If-Match", "in": "header", "schema": {"type": "string"},
            "description": "Change only what has this ETag.",
        }));
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if endpoint.is_open {
        operation["security"] = json!([]);
    }
    match endpoint.handler {
        Handler::Plain(_) | Handler::Work { .. } => {}
        Handler::Document { content_type, schema, .. } => {
            operation["requestBody"] = body(&[content_type], schema);
        }
        Handler::Stream { content_types, schema, .. } => {
            operation["requestBody"] = body(content_types, schema);
        }
    }
    operation
}

fn head_operation(endpoint: &Endpoint) -> Value {
    let mut operation = operation(endpoint);
    operation["summary"] = format!("{}: header fields only", endpoint.summary).into();
    operation["operationId"] = format!("head{}", operation_id(endpoint)).into();
    if let Some(responses) = operation["responses"].as_object_mut() {
        for response in responses.values_mut().filter_map(Value::as_object_mut) {
            let _ = response.remove("content");
        }
    }
    operation
}

/// `getV1ConfigConfirm` and the like.
fn operation_id(endpoint: &Endpoint) -> alloc::string::String {
    let mut id = endpoint.method.to_string().to_ascii_lowercase();
    for word in endpoint.path.split(['/', '.']).filter(|word| !word.is_empty()) {
        let (first, rest) = word.split_at(1);
        id.push_str(&first.to_ascii_uppercase());
        id.push_str(rest);
    }
    id
}

fn responses(endpoint: &Endpoint) -> Value {
    let answer = &endpoint.answer;
    let mut content = Map::new();
    let schema = if answer.schema.is_empty() { json!({"type": "string"}) } else { reference(answer.schema) };
    let _ = content.insert(answer.content_type.into(), json!({"schema": schema}));
    if !answer.lines.is_empty() {
        let _ = content.insert(super::NDJSON.into(), json!({"schema": reference(answer.lines)}));
    }
    let mut responses = Map::new();
    let _ = responses
        .insert(answer.status.to_string(), json!({"description": reason(answer.status), "content": content}));
    for status in refusals(endpoint) {
        let problem = match (endpoint.path, status) {
            ("/v1/routes", 422) => "BulkProblem",
            ("/v1/resources" | "/v1/resources/delete", 422) => "ResourceProblem",
            _ => "Problem",
        };
        let _ = responses.insert(
            status.to_string(),
            json!({"description": reason(status), "content": {PROBLEM_JSON: {"schema": reference(problem)}}}),
        );
    }
    Value::Object(responses)
}

fn refusals(endpoint: &Endpoint) -> Vec<u16> {
    // What the HTTP server itself can say to any request; then the gate; then the body.
    let mut statuses = [400, 408, 413, 417, 431, 501, 505].to_vec();
    if !endpoint.is_open {
        statuses.extend([401, 429]);
    }
    if !matches!(endpoint.handler, Handler::Plain(_) | Handler::Work { .. }) {
        statuses.extend([411, 415]);
    }
    statuses.extend(endpoint.refusals);
    statuses
}

fn parameter(param: &Param) -> Value {
    let schema = match param.kind {
        Kind::Integer(min, max) => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::Boolean => json!({"type": "boolean"}),
        Kind::Address => json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
        Kind::Cursor => json!({"type": "string", "maxLength": 64}),
        Kind::Name => json!({"type": "string", "maxLength": 64}),
        Kind::Text(max_bytes) => json!({"type": "string", "maxLength": max_bytes}),
        Kind::Network => {
            let examples = ["192.0.2.0/24", "2001:db8::1"];
            json!({"type": "string", "pattern": "^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$", "examples": examples})
        }
        Kind::Choice(words) => json!({"type": "string", "enum": words}),
    };
    json!({"name": param.name, "in": "query", "required": param.is_required, "description": param.doc, "schema": schema})
}

fn body(content_types: &[&str], schema: &str) -> Value {
    let content = content_types.iter().map(|name| ((*name).into(), json!({"schema": reference(schema)})));
    json!({"required": true, "content": content.collect::<Map<_, _>>()})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}
