//! Generates the gRPC service of the kubelet's device plugin API from its description here: no .proto file, no protoc.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let method = |name: &str, route: &str, input: &str, output: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("crate::message::{input}"))
            .output_type(format!("crate::message::{output}"))
            .codec_path("tonic_prost::ProstCodec")
    };
    let registration = Service::builder()
        .name("Registration")
        .package("v1beta1")
        .method(method("register", "Register", "RegisterRequest", "Empty").build())
        .build();
    let plugin = Service::builder()
        .name("DevicePlugin")
        .package("v1beta1")
        .method(
            method(
                "get_device_plugin_options",
                "GetDevicePluginOptions",
                "Empty",
                "Options",
            )
            .build(),
        )
        .method(
            method("list_and_watch", "ListAndWatch", "Empty", "DeviceList")
                .server_streaming()
                .build(),
        )
        .method(method("allocate", "Allocate", "AllocateRequest", "AllocateResponse").build())
        .build();
    Builder::new().compile(&[registration, plugin]);
    println!("cargo::rerun-if-changed=build.rs");
}
