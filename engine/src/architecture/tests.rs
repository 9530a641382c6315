use super::*;

const LLAMA: &str = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5, "rope_theta": 50000.0, "tie_word_embeddings": true}"#;

fn with(field: &str) -> Result<Architecture, ArchitectureError> {
    Architecture::from_configuration(LLAMA.replacen('{', &format!("{{{field}, "), 1).as_bytes())
}

#[test]
fn a_configuration_gives_every_extent() {
    let architecture = Architecture::from_configuration(LLAMA.as_bytes()).unwrap();
    assert_eq!(
        (
            architecture.hidden_size,
            architecture.head_dimension,
            architecture.key_value_heads
        ),
        (64, 16, 2)
    );
    assert_eq!((architecture.vocabulary_size, architecture.context_length), (100, 256));
    assert!(architecture.tied_embeddings);
    assert!((architecture.rope_theta - 50_000.0).abs() < 1e-9);
    assert_eq!(architecture.query_width() + architecture.key_value_width(), 96);
}

#[test]
fn an_unsupported_architecture_is_refused_with_the_supported_ones() {
    let json = LLAMA.replace(r#""model_type": "llama""#, r#""model_type": "mamba""#);
    let message = Architecture::from_configuration(json.as_bytes())
        .unwrap_err()
        .to_string();
    let expected = "architecture \"mamba\" is not supported; supported are: llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text, phi3, smollm3";
    assert_eq!(message, expected);
}

#[test]
fn a_missing_field_is_named() {
    let json = LLAMA.replace("\"hidden_size\"", "\"other\"");
    let error = Architecture::from_configuration(json.as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "the model's configuration lacks hidden_size");
    assert!(matches!(
        Architecture::from_configuration(b"{").unwrap_err(),
        ArchitectureError::Json { .. }
    ));
}

#[test]
fn extents_that_would_divide_by_zero_or_allocate_without_bound_are_refused() {
    for (from, to) in [
        ("\"num_attention_heads\": 4", "\"num_attention_heads\": 0"),
        ("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"),
        (
            "\"max_position_embeddings\": 256",
            "\"max_position_embeddings\": 1000000000000",
        ),
        ("\"hidden_size\": 64", "\"hidden_size\": 66"),
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 5000000"),
    ] {
        let error = Architecture::from_configuration(LLAMA.replace(from, to).as_bytes()).unwrap_err();
        assert!(matches!(error, ArchitectureError::Invalid { .. }), "{to}");
    }
    assert!(with(r#""num_local_experts": 8"#).is_err());
}

#[test]
fn rope_scaling_is_read_or_refused_but_never_ignored() {
    let scaling = r#""rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}"#;
    assert_eq!(
        with(scaling).unwrap().rope_scaling.unwrap().original_context_length,
        8192
    );
    assert!(with(r#""rope_scaling": {"type": "yarn", "factor": 4.0}"#).is_err());
    assert!(with(r#""rope_scaling": null"#).unwrap().rope_scaling.is_none());
}

#[test]
fn presets_are_valid_and_have_the_parameters_of_the_models_that_they_are_named_after() {
    let sizes = [
        ("smollm2-135m", 134.5e6),
        ("tinyllama-1.1b", 1.1e9),
        ("llama-3.2-1b", 1.236e9),
        ("llama-3.1-8b", 8.03e9),
    ];
    let more = [("llama-3.1-70b", 70.55e9), ("qwen3-8b", 8.19e9), ("mistral-7b", 7.24e9)];
    for (name, expected) in sizes.into_iter().chain(more) {
        let architecture = preset(name).unwrap();
        architecture.validate().unwrap();
        let parameters = architecture.matrix_parameters() as f64;
        assert!(
            (parameters / expected - 1.0).abs() < 0.005,
            "{name} has {parameters} parameters"
        );
    }
    assert!(PRESET_NAMES.iter().all(|name| preset(name).is_some()) && preset("other").is_none());
}

#[test]
fn an_architecture_survives_json() {
    let architecture = preset("llama-3.1-8b").unwrap();
    let json = serde_json::to_string(&architecture).unwrap();
    assert!(json.contains("\"keyValueHeads\":8") && json.contains("\"family\":\"llama\""));
    assert_eq!(serde_json::from_str::<Architecture>(&json).unwrap(), architecture);
}

#[test]
fn every_nth_layer_has_full_attention() {
    let window = Some(SlidingWindow {
        tokens: 8,
        full_attention_interval: Some(3),
    });
    let architecture = Architecture {
        sliding_window: window,
        layers: 6,
        ..preset("tiny-test").unwrap()
    };
    let windows: Vec<_> = (0..6).map(|layer| architecture.layer_window(layer)).collect();
    assert_eq!(windows, [Some(8), Some(8), None, Some(8), Some(8), None]);
}
