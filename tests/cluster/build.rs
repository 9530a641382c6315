//! Generates the gRPC services by which a kubelet knows a driver of dynamic resources: no .proto file, no protoc.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let method = |name: &str, route: &str, input: &str, output: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("crate::node::dynamic_resources::message::{input}"))
            .output_type(format!("crate::node::dynamic_resources::message::{output}"))
            .codec_path("tonic_prost::ProstCodec")
            .build()
    };
    let registration = Service::builder()
        .name("Registration")
        .package("pluginregistration")
        .method(method("get_info", "GetInfo", "Empty", "PluginInfo"))
        .method(method(
            "notify_registration_status",
            "NotifyRegistrationStatus",
            "RegistrationStatus",
            "Empty",
        ))
        .build();
    let driver = Service::builder()
        .name("DRAPlugin")
        .package("k8s.io.kubelet.pkg.apis.dra.v1")
        .method(method(
            "node_prepare_resources",
            "NodePrepareResources",
            "Claims",
            "PrepareResponse",
        ))
        .method(method(
            "node_unprepare_resources",
            "NodeUnprepareResources",
            "Claims",
            "UnprepareResponse",
        ))
        .build();
    Builder::new().build_client(false).compile(&[registration, driver]);
    println!("cargo::rerun-if-changed=build.rs");
}
