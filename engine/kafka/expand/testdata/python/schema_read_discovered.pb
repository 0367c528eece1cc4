
â"ß
ref_Coder_FastPrimitivesCoder_1»
¸
beam:coder:pickled_python:v1—
”FastPrimitivesCoder$eNprYJ2axgABPZKJBYnJGanxSamJuXrJ+SmpRcVQakqPsFticUlAUWZuZklmWWqxM0h4yuQpmo1Taqf08MenJebkJCUmZ8eD1U/JYOjhDshMzs5JRVGYVJykBwDOwCqZ•
ú
)beam:expansion:payload:schematransform:v1Ì
2beam:schematransform:org.apache.beam:kafka_read:v1l

bootstrap_servers

format

schema

topic$6d3fa1a4-9f1c-4f2b-8f57-2a3f7f6f0a11(broker1:9092,broker2:9092RAWevents*schema_read_discoveredns"$
0ref_Coder_FastPrimitivesCoder_1