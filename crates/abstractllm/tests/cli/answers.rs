//! `describe` and `generate` when all is well.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::{Run, case, program, repository, run, run_with_stdin};

const SAMPLES: [&str; 2] =
    ["models/tiny-vl/samples/scene.png", "models/tiny-vl/samples/second.png"];

#[test]
fn describe_says_what_is_in_a_picture() {
    let run = run(["describe", &repository(SAMPLES[0])]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stdout.starts_with("A "), "{run:?}");
    assert_eq!(run.stdout.lines().count(), 1, "{run:?}");
    // That the embedded model answers is said, and said once.
    assert_eq!(run.stderr.matches("tiny-vl").count(), 1, "{run:?}");
    assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
}

#[test]
fn answers_are_those_of_the_reference() {
    for name in ["01-describe", "19-compare", "27-three", "28-system", "32-text"] {
        let case = case(name);
        let mut arguments = vec!["generate", "--quiet", "--model", "tiny-vl"];
        arguments.extend(["--prompt", &case.prompt]);
        arguments.extend(case.images.iter().flat_map(|image| ["--image", image]));
        arguments.extend(case.system.iter().flat_map(|system| ["--system", system]));
        let run = run(arguments);
        assert_eq!(run.stdout, case.answer + "\n", "{name}");
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{name}");
    }
}

#[test]
fn several_pictures_are_compared() {
    let images = SAMPLES.map(repository);
    let described = run(["describe", "--quiet", &images[0], &images[1]]);
    assert_eq!(described.code, 0, "{described:?}");
    let asked = run([
        "generate",
        "--quiet",
        "--prompt",
        "Compare these images.",
        "--image",
        &images[0],
        "--image",
        &images[1],
    ]);
    assert_eq!(described.stdout, asked.stdout);
    let swapped = run(["describe", "--quiet", &images[1], &images[0]]);
    assert_ne!(described.stdout, swapped.stdout, "the order of the pictures must matter");
}

#[test]
fn streamed_or_not_the_text_is_the_same() {
    let image = repository(SAMPLES[0]);
    let streamed = run(["describe", "-q", "--stream", &image]);
    let whole = run(["describe", "-q", "--no-stream", &image]);
    assert_eq!((streamed.code, whole.code), (0, 0));
    assert_eq!(streamed.stdout, whole.stdout);
}

#[test]
fn the_prompt_may_be_piped_and_the_picture_be_a_data_url() {
    let case = case("01-describe");
    let bytes = std::fs::read(&case.images[0]).unwrap();
    let url = format!("data:image/png;base64,{}", STANDARD.encode(bytes));
    // One argument may not be longer than this on Linux.
    let arguments: &[&str] = match url.len() < 128 << 10 {
        true => &["generate", "-q", "--image", &url],
        false => panic!("choose a smaller picture: {}", url.len()),
    };
    let run = run_with_stdin(arguments, case.prompt + "\n");
    assert_eq!((run.code, run.stdout), (0, case.answer + "\n"));
}

#[test]
fn json_holds_the_answer_and_what_it_took() {
    let image = repository(SAMPLES[0]);
    let run = run(["describe", "-q", "--json", "--monitor", "--max-tokens", "5", &image]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let json = run.json();
    assert_eq!(json["finish_reason"], "length");
    assert_eq!(json["usage"]["completion_tokens"], 5);
    assert_eq!(json["usage"]["image_tokens"], 144);
    assert_eq!(json["model"], "tiny-vl");
    assert_eq!(json["images"][0]["source"], image.as_str());
    assert_eq!(json["images"][0]["width"], 336);
    assert!(json["text"].as_str().unwrap().starts_with('A'), "{json}");
    for time in ["load", "first_token", "decode", "answer"] {
        assert!(json["times"][time].as_f64().unwrap() > 0.0, "{time}: {json}");
    }
    let report = &json["monitor"];
    let names: Vec<_> = report["operations"].as_array().unwrap().iter().collect();
    assert_eq!(names.iter().map(|op| &op["name"]).collect::<Vec<_>>(), ["load", "describe"]);
    for operation in names {
        let field = |name: &str| operation[name].as_f64().unwrap_or_else(|| panic!("{name}"));
        assert!(field("duration") > 0.0);
        assert!(field("memory_start") > 0.0);
        assert!(field("memory_peak") >= field("memory_start").max(field("memory_end")));
        assert!(field("cpu_percent") >= 0.0);
        assert!(operation.get("gpu_metrics").is_some());
    }
    for field in ["total_duration", "peak_memory", "average_cpu"] {
        assert!(report["summary"][field].as_f64().unwrap() > 0.0, "{field}: {report}");
    }
    assert_eq!(report["generation"]["new_tokens"], 5);
    let phases: Vec<_> = report["phases"].as_array().unwrap().iter().map(|p| &p["phase"]).collect();
    for phase in ["load", "decode_image", "vision_tower", "prefill_new"] {
        assert!(phases.contains(&&Value::from(phase)), "no {phase} in {phases:?}");
    }
}

#[test]
fn without_json_the_report_is_a_table_on_stderr() {
    let run = run(["describe", "-q", "--monitor", &repository(SAMPLES[0])]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.stdout.lines().count(), 1, "{run:?}");
    for says in ["describe", "load", "CPU"] {
        assert!(run.stderr.contains(says), "{says}: {run:?}");
    }
}

#[test]
fn rust_log_shows_the_phases_with_their_times() {
    let image = repository(SAMPLES[0]);
    let mut program = program(["describe", &image, "--max-tokens", "3"]);
    let run: Run = program.env("RUST_LOG", "perf_monitor=debug").output().unwrap().into();
    assert_eq!(run.code, 0, "{run:?}");
    let of = |phase: &str| {
        let all = run.stderr.lines();
        all.filter(|line| line.contains(&format!(" {phase}")) && line.contains("time.busy")).count()
    };
    for (phase, count) in [("load", 1), ("vision_tower", 1), ("prefill_new", 1), ("decode_step", 3)]
    {
        assert_eq!(of(phase), count, "{phase}: {run:?}");
    }
}

#[test]
fn json_lines_are_one_event_each_and_end_once() {
    let run = run(["generate", "-q", "--json", "--stream", "--prompt", "Who are you?"]);
    assert_eq!(run.code, 0, "{run:?}");
    let events: Vec<Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| events.iter().filter(|e| e["event"] == kind).collect::<Vec<_>>();
    let text: String = of("text").iter().map(|e| e["text"].as_str().unwrap()).collect();
    assert!(of("text").len() > 3, "one piece is no stream: {events:?}");
    assert!(!of("progress").is_empty());
    let end = events.last().unwrap();
    assert_eq!((of("end").len(), &end["event"]), (1, &Value::from("end")));
    assert_eq!(end["text"], text.as_str());
    assert_eq!(text, case("32-text").answer);
    assert_eq!(end["finish_reason"], "stop");
}

#[test]
fn parameters_arrive_at_the_model() {
    let ask = |more: &[&str]| {
        let fixed = ["generate", "-q", "--prompt", "Who are you?"];
        run(fixed.iter().chain(more)).stdout
    };
    let plain = ask(&[]);
    assert_eq!(plain, case("32-text").answer + "\n");
    let stopped = ask(&["--stop", "small"]);
    assert_eq!(stopped.trim_end(), plain.split("small").next().unwrap().trim_end());
    let random = ["--temperature", "2", "--seed", "7", "--max-tokens", "40"];
    assert_ne!(ask(&random), plain);
    assert_eq!(ask(&random), ask(&random), "the same seed gives the same answer");
    assert_ne!(ask(&random), ask(&["--temperature", "2", "--seed", "8", "--max-tokens", "40"]));
    // Keeping one token makes any temperature greedy.
    assert_eq!(ask(&["--temperature", "2", "--top-k", "1"]), plain);
    // A system prompt that tiny-vl does not know leaves it in doubt, so that a nudge tells.
    let ask = |more: &[&str]| {
        let fixed = ["generate", "-q", "--max-tokens", "60", "--prompt", "Help me."];
        run(fixed.iter().chain(more)).stdout
    };
    let unsure = ["--system", "Answer in one short sentence."];
    let plain = ask(&unsure);
    assert_ne!(plain, ask(&[]));
    for penalty in ["--frequency-penalty", "--presence-penalty"] {
        assert_ne!(ask(&[unsure[0], unsure[1], penalty, "-2"]), plain, "{penalty}");
    }
    assert_ne!(ask(&[unsure[0], unsure[1], "--repetition-penalty", "0.5"]), plain);
}

#[test]
fn a_smaller_budget_takes_fewer_tokens() {
    let image = repository(SAMPLES[0]);
    let tokens = |more: &[&str]| {
        let fixed = ["describe", "-q", "--json", "--max-tokens", "1", image.as_str()];
        run(fixed.iter().chain(more)).json()["usage"]["image_tokens"].as_u64().unwrap()
    };
    assert_eq!(tokens(&[]), 144);
    assert_eq!(tokens(&["--max-pixels", "12544"]), 16);
    assert_eq!(tokens(&["--max-pixels", "500000", "--min-pixels", "250000"]), 324);
}

#[test]
fn a_model_can_be_packed_while_it_is_loaded() {
    let case = case("01-describe");
    let run = run([
        "generate",
        "-q",
        "--quantize=8",
        "--group-size",
        "32",
        "--prompt",
        &case.prompt,
        "--image",
        &case.images[0],
    ]);
    assert_eq!((run.code, run.stdout), (0, case.answer + "\n"));
}

#[test]
fn a_cache_folder_makes_the_second_question_cheap_and_keeps_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cache").to_string_lossy().into_owned();
    let image = repository(SAMPLES[0]);
    let ask = |prompt: &str| {
        run(["describe", &image, "--prompt", prompt, "--json", "--cache-dir", &folder]).json()
    };
    let first = ask("Describe this image.");
    assert_eq!(first["usage"]["cached_tokens"], 0);
    let again = ask("Describe this image.");
    assert_eq!(again["text"], first["text"]);
    assert!(again["usage"]["cached_tokens"].as_u64() >= Some(64), "{again}");
    let other = ask("What color is the circle?");
    assert!(other["usage"]["cached_tokens"].as_u64() >= Some(64), "{other}");
    assert_ne!(other["text"], first["text"]);
}
