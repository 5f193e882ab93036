//! JSON bodies: serialised by serde, described by a type of the specification.
//!
//! poem-openapi's own `Json` goes through a tree of values and calls itself `application/json; charset=utf-8`, which is
//! not a registered media type and gives generated clients ugly names.

use std::marker::PhantomData;

use hyper::body::Bytes;
use poem::{IntoResponse, Response, http::header};
use poem_openapi::{
    ApiResponse,
    payload::Payload,
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchemaRef, Registry},
    types::Type,
};

/// A JSON body that the specification describes as `T`.
pub(super) struct JsonBody<T> {
    bytes: Bytes,
    described_as: PhantomData<fn() -> T>,
}

impl<T> JsonBody<T> {
    /// The body that says `value`.
    pub(super) fn of(value: &impl serde::Serialize) -> Self {
        // Our values have string keys and no fallible serialisers, so this cannot fail; an empty body would be seen.
        let bytes = serde_json::to_vec(value).unwrap_or_default();
        Self::ready(bytes.into())
    }

    /// The body that is these bytes.
    pub(super) fn ready(bytes: Bytes) -> Self {
        Self { bytes, described_as: PhantomData }
    }
}

impl<T: Type> Payload for JsonBody<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: Send> IntoResponse for JsonBody<T> {
    fn into_response(self) -> Response {
        Response::builder().header(header::CONTENT_TYPE, "application/json").body(self.bytes)
    }
}

impl<T: Type> ApiResponse for JsonBody<T> {
    fn meta() -> MetaResponses {
        let content = vec![MetaMediaType { content_type: Self::CONTENT_TYPE, schema: T::schema_ref() }];
        let response = MetaResponse {
            description: "Done.",
            status: Some(200),
            status_range: None,
            content,
            headers: vec![],
        };
        MetaResponses { responses: vec![response] }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// Describes a page of a list: `list!(UserList of User, "Users.")`.
macro_rules! list {
    ($(#[$doc:meta])* $name:ident of $item:ty) => {
        $(#[$doc])*
        #[derive(poem_openapi::Object)]
        pub(super) struct $name {
            /// The items.
            items: Vec<$item>,
            /// What to give as `after` for the next page; null when this is the last.
            #[oai(nullable)]
            next: Option<String>,
        }
    };
}
pub(super) use list;
