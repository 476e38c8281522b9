//! Answers that are wrong whatever was asked.

use super::answers::{Change, around, now, results, somebodys, status, text, value};
use axum::body::Body;
use axum::http::Response;
use serde_json::{Value, json};
use std::sync::Arc;

/// Wrong in a way that no answer may be wrong, whatever was asked.
pub(crate) fn traps() -> Vec<(&'static str, Change)> {
    const LOGIN: &str = "<!DOCTYPE html><html><body><form>Please log in</form></body></html>";
    vec![
        ("a value that is no number", value(json!("NaN"))),
        ("an infinite value", value(json!("+Inf"))),
        ("a value that is minus infinity", value(json!("-Inf"))),
        ("an infinite value in words", value(json!("infinity"))),
        ("a value beyond all numbers", value(json!("1e999"))),
        ("a value that is a word", value(json!("many"))),
        ("an empty value", value(json!(""))),
        ("a value with a unit", value(json!("5s"))),
        ("a value that is JSON's number", value(json!(1.5))),
        ("a value that is null", value(Value::Null)),
        ("a value that is a list", value(json!(["1"]))),
        (
            "a series that comes twice",
            results(|asked, series| {
                series.extend([asked.somebody(&json!("1")), asked.somebody(&json!("1"))]);
            }),
        ),
        (
            "a series without a value",
            results(|_, series| series.push(json!({"metric": somebodys()}))),
        ),
        (
            "a series without labels' braces",
            results(|asked, series| {
                let mut one = asked.somebody(&json!("1"));
                one["metric"] = json!("other");
                series.push(one);
            }),
        ),
        (
            "a label that is a number",
            results(|asked, series| {
                let mut one = asked.somebody(&json!("1"));
                one["metric"]["pod"] = json!(7);
                series.push(one);
            }),
        ),
        (
            "a histogram",
            results(|asked, series| {
                let name = if asked.about.is_range() { "histograms" } else { "histogram" };
                series.push(json!({"metric": somebodys(), name: [now(), {"count": "1"}]}));
            }),
        ),
        (
            "a time that is a text",
            results(|asked, series| {
                series.push(asked.shaped(somebodys(), |at| json!([at.to_string(), "1"])));
            }),
        ),
        (
            "a point of three",
            results(|asked, series| {
                series.push(asked.shaped(somebodys(), |at| json!([at, "1", "2"])));
            }),
        ),
        ("a series that is null", results(|_, series| series.push(Value::Null))),
        ("a warning", around(|all| all["warnings"] = json!(["a store did not answer"]))),
        ("many warnings", around(|all| all["warnings"] = json!(vec!["gone"; 1000]))),
        (
            "a warning that is no list",
            around(|all| all["warnings"] = json!("a store did not answer")),
        ),
        ("the mark of a part", around(|all| all["isPartial"] = json!(true))),
        ("no status", around(|all| drop(all.as_object_mut().unwrap().remove("status")))),
        ("another status", around(|all| all["status"] = json!("ok"))),
        (
            "an error with an empty result",
            around(|all| {
                *all = json!({"status": "error", "errorType": "timeout", "error": "query timed out",
                "data": {"resultType": "vector", "result": []}});
            }),
        ),
        ("an error without words", around(|all| *all = json!({"status": "error"}))),
        ("no data", around(|all| drop(all.as_object_mut().unwrap().remove("data")))),
        ("data that are null", around(|all| all["data"] = Value::Null)),
        ("no result", around(|all| drop(all["data"].as_object_mut().unwrap().remove("result")))),
        ("a result that is null", around(|all| all["data"]["result"] = Value::Null)),
        ("a result that is an object", around(|all| all["data"]["result"] = json!({}))),
        (
            "a scalar",
            around(|all| {
                all["data"] = json!({"resultType": "scalar", "result": [now(), "0"]});
            }),
        ),
        (
            "a result of the other type",
            around(|all| {
                let other = if all["data"]["resultType"] == "matrix" { "vector" } else { "matrix" };
                all["data"]["resultType"] = json!(other);
            }),
        ),
        (
            "a result of no type",
            around(|all| {
                drop(all["data"].as_object_mut().unwrap().remove("resultType"));
            }),
        ),
        ("another server's JSON", around(|all| *all = json!({"kind": "Status", "code": 200}))),
        ("an empty object", around(|all| *all = json!({}))),
        ("a list", around(|all| *all = json!([all.clone()]))),
        ("null", around(|all| *all = Value::Null)),
        ("nothing", text(|_| Body::empty())),
        ("half of it", text(|text| text[..text.len() / 2].to_owned().into())),
        ("all but the last brace", text(|text| text[..text.len() - 1].to_owned().into())),
        ("something after it", text(|text| format!("{text}{text}").into())),
        ("something before it", text(|text| format!(")]}}'\n{text}").into())),
        (
            "bytes that are no text",
            text(|text| {
                let mut bytes = text.into_bytes();
                bytes.splice(1..1, *b"\"x\":\"\xff\",");
                bytes.into()
            }),
        ),
        ("what looks compressed", text(|_| vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0].into())),
        ("a page to log in at", text(|_| LOGIN.into())),
        ("a page under another name", status(200, "<html></html>")),
        ("no content", status(204, "")),
        ("a part of the content", status(206, "{}")),
        ("not modified", status(304, "")),
        ("who are you", status(401, LOGIN)),
        ("not for you", status(403, "")),
        ("not there", status(404, "404 page not found")),
        ("too many", status(429, "")),
        ("a failure", status(500, "")),
        ("a bad gateway", status(502, LOGIN)),
        ("no server behind it", status(503, "no healthy upstream")),
        ("a late gateway", status(504, "upstream request timeout")),
        (
            "a failure with an honest text",
            Arc::new(|_, honest| {
                Response::builder().status(500).body(honest.to_string().into()).unwrap()
            }),
        ),
        (
            "the way to somewhere else",
            Arc::new(|_, honest| {
                let moved =
                    Response::builder().status(302).header("location", "http://127.0.0.1:1/");
                moved.body(honest.to_string().into()).unwrap()
            }),
        ),
        (
            "a connection that breaks in the middle",
            text(|text| {
                let half: Vec<u8> = text.into_bytes().into_iter().take(20).collect();
                let broken = [Ok(half), Err(std::io::Error::other("gone"))];
                Body::from_stream(futures::stream::iter(broken))
            }),
        ),
        (
            "a text without end",
            text(|_| {
                Body::from_stream(futures::stream::repeat_with(|| {
                    Ok::<_, std::io::Error>(vec![b' '; 1 << 16])
                }))
            }),
        ),
    ]
}
