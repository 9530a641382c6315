use std::collections::HashMap;
use std::error::Error as _;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::architecture::preset;
use super::source::SyntheticShape;
use super::*;

/// Writes a tiny llama in the layout of Hugging Face: weights, configurations and a byte tokenizer.
pub(super) fn write_tiny_model(directory: &Path) {
    let configuration = r#"{"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 32, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "eos_token_id": 5}"#;
    let layer = "model.layers.0";
    let tensors: HashMap<String, Tensor> = [
        ("model.embed_tokens.weight".to_owned(), vec![32, 16]),
        ("lm_head.weight".to_owned(), vec![32, 16]),
        ("model.norm.weight".to_owned(), vec![16]),
        (format!("{layer}.input_layernorm.weight"), vec![16]),
        (format!("{layer}.post_attention_layernorm.weight"), vec![16]),
        (format!("{layer}.self_attn.q_proj.weight"), vec![16, 16]),
        (format!("{layer}.self_attn.k_proj.weight"), vec![8, 16]),
        (format!("{layer}.self_attn.v_proj.weight"), vec![8, 16]),
        (format!("{layer}.self_attn.o_proj.weight"), vec![16, 16]),
        (format!("{layer}.mlp.gate_proj.weight"), vec![32, 16]),
        (format!("{layer}.mlp.up_proj.weight"), vec![32, 16]),
        (format!("{layer}.mlp.down_proj.weight"), vec![16, 32]),
    ]
    .into_iter()
    .map(|(name, shape)| {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|index| ((index * 7919 + name.len()) % 101) as f32 / 101.0 - 0.5)
            .collect();
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    })
    .collect();
    candle_core::safetensors::save(&tensors, directory.join("model.safetensors")).unwrap();
    let vocabulary: Vec<String> = (0_u8..32)
        .map(|id| format!("\"{}\": {id}", (b'@' + id) as char))
        .collect();
    let vocabulary = vocabulary.join(", ").replace("\"\\\"", "\"\\\\\"");
    let tokenizer = format!(
        r#"{{"version": "1.0", "added_tokens": [], "model": {{"type": "BPE", "vocab": {{{vocabulary}}}, "merges": []}}}}"#
    );
    std::fs::write(directory.join("tokenizer.json"), tokenizer).unwrap();
    std::fs::write(directory.join("config.json"), configuration).unwrap();
    std::fs::write(directory.join("generation_config.json"), r#"{"eos_token_id": [3, 4]}"#).unwrap();
}

pub(super) fn load_from(source: ModelSource) -> Result<Box<dyn Engine>, EngineError> {
    load(&LoadRequest {
        source,
        device: DeviceChoice::Cpu,
        dtype: None,
        implementation: Implementation::Transformers,
    })
}

fn load_directory(path: &Path) -> Result<Box<dyn Engine>, EngineError> {
    load_from(ModelSource::Directory { path: path.to_owned() })
}

/// The messages of an error and its causes.
fn chain(error: &EngineError) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    message
}

fn refusal(path: &Path) -> EngineError {
    match load_directory(path) {
        Ok(engine) => panic!("loaded {:?}", engine.description()),
        Err(error) => error,
    }
}

#[test]
fn a_directory_is_loaded_described_and_run_through_the_seam() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny_model(directory.path());
    let mut engine = load_directory(directory.path()).unwrap();
    let description = engine.description().clone();
    assert_eq!((description.parameters, description.weight_bytes), (3376, 13_504));
    assert_eq!((description.context_length, description.vocabulary_size), (64, 32));
    assert_eq!(
        (description.compute_precision, description.quantisation),
        (ComputePrecision::Fp32, None)
    );
    assert_eq!(description.weights_digest.len(), 64);
    let prompt = engine.tokenizer().unwrap().encode("ABC").unwrap();
    assert_eq!(prompt, [1, 2, 3]);
    assert_eq!(engine.tokenizer().unwrap().decode(&[4]).unwrap(), "D");
    assert_eq!(engine.free_sequences(), 1);
    let request = SequenceRequest {
        id: 9,
        prompt,
        max_output_tokens: 3,
        ignore_eos: true,
        sampling: Sampling::GREEDY,
    };
    engine.submit(request).unwrap();
    let mut output = Vec::new();
    assert_eq!(engine.step(&mut output).unwrap(), StepKind::Prefill { tokens: 3 });
    assert_eq!(engine.step(&mut output).unwrap(), StepKind::Decode { rows: 1 });
    assert_eq!(engine.step(&mut output).unwrap(), StepKind::Decode { rows: 1 });
    assert_eq!(engine.step(&mut output).unwrap(), StepKind::Idle);
    assert!(output.iter().all(|token| token.sequence == 9) && output.len() == 3);
    engine.synchronize().unwrap();
}

#[test]
fn a_missing_model_is_refused_with_its_path() {
    let error = refusal(Path::new("/nowhere/model.gguf"));
    assert!(
        chain(&error).contains("/nowhere/model.gguf cannot be opened: No such file"),
        "{}",
        chain(&error)
    );
    assert_eq!(error.category(), "source_unreadable");
    let empty = tempfile::tempdir().unwrap();
    assert!(chain(&refusal(empty.path())).contains("config.json is missing, there are 0 *.gguf and no *.safetensors"));
}

#[test]
fn a_truncated_or_corrupted_file_is_refused_with_its_path_and_the_defect() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny_model(directory.path());
    let weights = directory.path().join("model.safetensors");
    let contents = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &contents[..contents.len() - 100]).unwrap();
    let error = refusal(directory.path());
    assert_eq!(error.category(), "weight_header");
    assert!(
        chain(&error).contains("model.safetensors is not a usable weight file: tensor"),
        "{}",
        chain(&error)
    );
    let gguf = directory.path().join("broken.gguf");
    std::fs::write(&gguf, b"GGUF\x03\0\0\0garbage").unwrap();
    assert_eq!(refusal(&gguf).category(), "weight_header");
    std::fs::write(&gguf, b"").unwrap();
    assert!(chain(&refusal(&gguf)).contains("truncated or unreadable"));
}

#[test]
fn a_missing_or_misshapen_tensor_is_an_error_and_not_candles_panic() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny_model(directory.path());
    let weights = directory.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
    tensors.remove("model.layers.0.mlp.up_proj.weight").unwrap();
    candle_core::safetensors::save(&tensors, &weights).unwrap();
    let error = refusal(directory.path());
    assert!(
        error
            .to_string()
            .contains("up_proj.weight\" should have the shape [32, 16], but it is missing"),
        "{error}"
    );
    let misshapen = Tensor::zeros((16, 32), DType::F32, &Device::Cpu).unwrap();
    tensors.insert("model.layers.0.mlp.up_proj.weight".to_owned(), misshapen);
    candle_core::safetensors::save(&tensors, &weights).unwrap();
    assert!(refusal(directory.path()).to_string().contains("but has [16, 32]"));
}

#[test]
fn a_directory_without_a_tokenizer_is_refused_with_the_place_that_was_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny_model(directory.path());
    std::fs::remove_file(directory.path().join("tokenizer.json")).unwrap();
    let error = refusal(directory.path());
    assert_eq!(error.category(), "tokenizer");
    assert!(chain(&error).contains("looked for ") && chain(&error).contains("tokenizer.json"));
}

#[test]
fn an_unsupported_architecture_names_the_file_and_the_supported_ones() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny_model(directory.path());
    std::fs::write(directory.path().join("config.json"), r#"{"model_type": "mamba"}"#).unwrap();
    let error = refusal(directory.path());
    assert_eq!(error.category(), "unsupported_architecture");
    assert!(chain(&error).contains("config.json") && chain(&error).contains("supported are: llama, mistral"));
}

#[test]
fn a_device_or_an_element_type_that_is_not_offered_is_refused() {
    let shape = SyntheticShape::Explicit(Box::new(preset("tiny-test").unwrap()));
    let source = ModelSource::Synthetic { shape, seed: 1 };
    if !candle_core::utils::cuda_is_available() {
        for implementation in [Implementation::Transformers, Implementation::Lem, Implementation::Auto] {
            let request = LoadRequest {
                source: source.clone(),
                device: DeviceChoice::Cuda(0),
                dtype: None,
                implementation,
            };
            let error = load(&request).err().unwrap();
            assert_eq!(error.category(), "device", "{implementation:?}: {error}");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    write_tiny_model(directory.path());
    let source = ModelSource::Directory {
        path: directory.path().to_owned(),
    };
    let request = LoadRequest {
        source,
        device: DeviceChoice::Cpu,
        dtype: Some(WeightType::Q4_0),
        implementation: Implementation::Transformers,
    };
    assert_eq!(load(&request).err().unwrap().category(), "weight_type");
}
