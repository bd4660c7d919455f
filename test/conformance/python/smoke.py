"""What the official Python client (replicate 1.0) needs of a server; run by python.test.ts.

Arguments: the base URL (without /v1) of a server with images as URLs, and of one with default settings.
"""

import io
import sys

from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput
from replicate.pagination import paginate

MODEL = "fluxd/flux"
INPUT = {"prompt": "a red circle", "num_inference_steps": 1}

urls, data = (Client(api_token="r8_any", base_url=url) for url in sys.argv[1:3])


def check_run():
    [url] = urls.run(MODEL, input=INPUT)
    assert isinstance(url, str) and url.startswith("http://"), url
    [output] = data.run(MODEL, input=INPUT)
    assert isinstance(output, FileOutput), output
    assert output.read()[8:12] == b"WEBP"
    version = urls.models.get(*MODEL.split("/")).latest_version
    [again] = urls.run(f"{MODEL}:{version.id}", input=INPUT, wait=5)
    assert again.endswith("/out-0.webp")
    [polled] = urls.run(f"{MODEL}:{version.id}", input=INPUT, wait=False)
    assert polled.endswith("/out-0.webp")


def check_version():
    version = urls.models.get(*MODEL.split("/")).latest_version
    schema = version.openapi_schema["components"]["schemas"]
    assert schema["Input"]["required"] == ["prompt"]
    assert schema["Output"]["type"] == "array" and "x-cog-array-type" not in schema["Output"]
    [listed] = urls.models.get(*MODEL.split("/")).versions.list()
    assert listed.id == version.id


def check_predictions():
    prediction = urls.models.predictions.create(model=MODEL, input=INPUT)
    prediction.wait()
    assert prediction.status == "succeeded" and prediction.progress.percentage == 1.0
    assert prediction.metrics["image_count"] == 1
    assert urls.predictions.get(prediction.id).output == prediction.output
    prediction.cancel()
    assert prediction.status == "succeeded"
    page = urls.predictions.list()
    assert prediction.id in [listed.id for listed in page.results] and page.next is None
    fresh = urls.models.predictions.create(model=MODEL, input=INPUT)
    assert [output.endswith("/out-0.webp") for output in fresh.output_iterator()] == [True]


def check_stream():
    events = list(urls.stream(MODEL, input=INPUT))
    kinds = [event.event.value for event in events]
    assert kinds[-2:] == ["output", "done"] and kinds.count("logs") >= 4, kinds
    assert all(event.id for event in events)


def check_files():
    picture = data.run(MODEL, input={**INPUT, "output_format": "png"})[0].read()
    file = io.BytesIO(picture)
    file.name = "own.png"
    created = urls.files.create(file, metadata={"a": 1})
    assert (created.name, created.content_type, created.size) == ("own.png", "image/png", len(picture))
    assert created.metadata == {"a": 1} and created.etag == created.checksums["md5"]
    assert urls.files.get(created.id) == created
    assert created.id in [listed.id for listed in urls.files.list()]
    urls.files.delete(created.id)
    file.seek(0)
    [output] = urls.run(MODEL, input={**INPUT, "image": file})
    assert output.endswith("/out-0.webp")
    file.seek(0)
    [output] = urls.run(MODEL, input={**INPUT, "image": file}, file_encoding_strategy="base64")
    assert output.endswith("/out-0.webp")


def check_models():
    made = urls.models.create(
        owner="py", name="lora", visibility="private", hardware="local", description="Zebras"
    )
    assert [found.name for found in urls.models.search("zebras")] == [made.name]
    assert "lora" in [model.name for page in paginate(urls.models.list) for model in page]
    deployment = urls.deployments.create(
        name="py-own",
        model="py/lora",
        version=made.latest_version.id,
        hardware="local",
        min_instances=0,
        max_instances=1,
    )
    prediction = deployment.predictions.create(input=INPUT)
    prediction.wait()
    assert prediction.status == "succeeded"
    updated = urls.deployments.update("fluxd", "py-own", max_instances=2)
    assert updated.current_release.number == 2
    assert urls.deployments.delete("fluxd", "py-own")


def check_rest():
    assert urls.accounts.current().username == "fluxd"
    assert [item.sku for item in urls.hardware.list()] == ["local"]
    [collection] = urls.collections.list()
    assert len(urls.collections.get(collection.slug).models) >= 6
    assert urls.webhooks.default.secret().key.startswith("whsec_")


def check_errors():
    try:
        urls.run(MODEL, input={})
        raise AssertionError("an input without a prompt was accepted")
    except ReplicateError as error:
        assert error.status == 422 and error.title == "Input validation failed", error
        assert error.detail == "- input: prompt is required\n", error
    try:
        urls.run(MODEL, input={**INPUT, "aspect_ratio": "custom"})
        raise AssertionError("custom without a size was made")
    except ModelError as error:
        assert "width and height must be defined" in str(error)


for check in [
    check_run,
    check_version,
    check_predictions,
    check_stream,
    check_files,
    check_models,
    check_rest,
    check_errors,
]:
    check()
    print(check.__name__, "ok")
