# One static binary in an empty image: no shell, no package manager, nobody to log in as.
FROM rust:1.95-bookworm AS build
WORKDIR /keydesk
COPY Cargo.toml Cargo.lock README.md ./
COPY src src
COPY migrations migrations
COPY benches benches
ENV RUSTFLAGS="-C target-feature=+crt-static"
# The target is named so that build scripts, which run here, are linked as usual.
RUN cargo build --locked --release --target "$(rustc --print host-tuple)" \
    && mkdir -p /image/data && cp target/*/release/keydesk /image/

FROM scratch
COPY --from=build --chown=65532:65532 /image /
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
USER 65532:65532
ENV KEYDESK_DATA_DIR=/data
VOLUME /data
EXPOSE 8000
ENTRYPOINT ["/keydesk"]
CMD ["serve"]
