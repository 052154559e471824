# evaluator in a small image that runs as nobody in particular. What it works on is mounted at /judged.
#
#     docker build -t evaluator .
#     docker build -t evaluator --build-arg EXTRAS=load,prometheus --build-arg VERSION=1.4.0 .

FROM python:3.13-slim AS build
ARG EXTRAS=""
# Git is not copied: the version that --version and each verdict say is told.
ARG VERSION=0.0.0
WORKDIR /src
COPY pyproject.toml README.md LICENSE app.py ./
COPY evaluator evaluator
COPY loadtests loadtests
RUN python3 -m venv /opt/evaluator
RUN SETUPTOOLS_SCM_PRETEND_VERSION=$VERSION /opt/evaluator/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.13-slim
COPY --from=build /opt/evaluator /opt/evaluator
RUN mkdir -m 1777 /judged
ENV PATH=/opt/evaluator/bin:$PATH \
    HOME=/judged \
    PYTHONUNBUFFERED=1
WORKDIR /judged
USER 10001:10001
ENTRYPOINT ["/opt/evaluator/bin/evaluator"]
CMD ["--help"]
