# One static binary in an empty image: no shell, no package manager, nobody to log in as.
#
#   docker build --build-arg KEYDESK_COMMIT="$(git rev-parse --short=12 HEAD)" -t keydesk .
#   scripts/image        builds the same without Docker: it reads the second part of this file
FROM rust:1.95-bookworm AS build
WORKDIR /keydesk
COPY Cargo.toml Cargo.lock build.rs README.md ./
COPY src src
COPY migrations migrations
COPY benches benches
COPY scripts/release scripts/
COPY deploy/image deploy/image
ARG KEYDESK_COMMIT
ARG SOURCE_DATE_EPOCH
RUN install -D "$(scripts/release)" target/image/keydesk && install -d -m 0700 target/image/data

# What is in the image, and how it is run.
FROM scratch
COPY --from=build /keydesk/target/image/keydesk /keydesk
COPY --from=build /keydesk/deploy/image/keydesk.toml /etc/keydesk/keydesk.toml
# Webhooks, other desks and PostgreSQL with a certificate of its own are checked against these.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /keydesk/target/image/data /data
USER 65532:65532
ENV KEYDESK_CONFIG=/etc/keydesk/keydesk.toml
ENV KEYDESK_DATA_DIR=/data
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/keydesk", "health"]
LABEL org.opencontainers.image.title=keydesk
LABEL org.opencontainers.image.licenses="Apache-2.0 OR MIT"
ENTRYPOINT ["/keydesk"]
CMD ["serve"]
